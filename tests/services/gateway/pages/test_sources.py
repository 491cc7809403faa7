import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Page, expect

from counterhint.authentication import Authentication
from counterhint.server_security import ServerSecurity
from counterhint.tokens import Grant, TokenFile, TokenTable, new_token, now, write_table
from services.gateway.tokenizer import Tokenizer
from tests.processes import wait_until
from tests.services.gateway.pages.conftest import Show
from tests.services.gateway.pages.replies import reply_of, response, words
from tests.services.gateway.pages.serving import served_gateway

Visit = Callable[..., Page]

TEXT = "First 3 * 4 = 12 €\nso 12 - 2 = 10"
REQUEST = {
    "problem": "3 boxes of 4 apples, 2 are eaten: how many are left?",
    "correct_hint": "3 * 4 = 12, 12 - 2 = 10",
    "correct_answer": "10",
    "wrong_hints": [
        {"hint": "3 + 4 = 7, 7 - 2 = 5", "answer": "5"},
        {"hint": "3 * 4 = 12, 12 - 3 = 9", "answer": "9"},
    ],
    "responses": [{"text": TEXT, "advantage": -0.5}, {"text": "5"}],
    "top_k": 3,
    "gate": {"tau": 0.5},
}
ROLLOUT = {
    "step": 10,
    "problem_id": "p1",
    "problem": "2 + 3",
    "correct": True,
    "answer": "5",
    "response_answer": "5",
    "advantage": 0.7,
    "tokens": ["so", " 2", " +", " 3", " =", " \ufffd", "5"],
    "token_ids": [5, 6, 7, 8, 9, 10, 11],
    "token_classes": ["style", "task", "task", "task", "task", "other", "task"],
    "student": [-0.1] * 7,
    "correct_hint": [-0.2] * 7,
    "wrong_hints": [[-0.5] * 7, [-0.5] * 7],
    "e_c": [-0.1] * 7,
    "e_ctr": [0.3] * 7,
    "selected": [True] * 7,
    "modulated": [1.2] * 7,
}


@pytest.fixture(scope="module")
def scoring_url(byte_level_teacher: str, tokenizer: Tokenizer) -> Iterator[str]:
    """A gateway in front of a real teacher."""
    with served_gateway([byte_level_teacher], tokenizer=tokenizer) as url:
        yield url


def fill_in(page: Page) -> None:
    page.get_by_label("Problem").fill(REQUEST["problem"])
    page.fill("[name=correct_hint]", REQUEST["correct_hint"])
    page.fill("[name=correct_answer]", REQUEST["correct_answer"])
    page.click("#add-wrong-hint")
    for index, wrong in enumerate(REQUEST["wrong_hints"]):
        page.locator("#wrong-hints [data-part=hint]").nth(index).fill(wrong["hint"])
        page.locator("#wrong-hints [data-part=answer]").nth(index).fill(wrong["answer"])
    page.click("#add-response")
    for index, one in enumerate(REQUEST["responses"]):
        page.locator("#responses [data-part=response]").nth(index).fill(one["text"])
    page.locator("#responses [data-part=advantage]").first.fill("-0.5")
    page.fill("[name=top_k]", "3")
    page.get_by_text("Answer format and gate").click()
    page.fill("[name=tau]", "0.5")


def label_of(name: str, signal: str, value: float) -> str:
    sign = "+" if value > 0 else ""
    return f"{name}, {signal} {sign}{value:.3g}".replace("-", "−")


def test_the_form_scores_with_the_teacher(visit: Visit, scoring_url: str) -> None:
    page = visit(scoring_url)
    assert page.locator("#token-view").is_hidden()
    fill_in(page)
    page.click("#score")
    page.locator("[data-signal=e_ctr] .token").first.wait_for()
    wanted = httpx.post(f"{scoring_url}/v1/distill/score", json=REQUEST, timeout=60).json()
    columns = wanted["responses"][0]["tokens"]
    for signal in ("e_ctr", "e_c"):
        tokens = page.locator(f"[data-signal={signal}] .token")
        labels = tokens.evaluate_all("found => found.map(one => one.ariaLabel)")
        assert len(labels) == len(columns["id"])
        for place in (0, 3, len(labels) - 1):
            text = columns["text"][place].replace(" ", "·").replace("\n", "↵")
            value = columns[signal][place]
            if abs(value) >= 1e-4:
                assert labels[place] == label_of(text, signal, value)
    # The euro sign is three tokens: two show their bytes, the third the sign.
    euro = TEXT.encode().index("€".encode())
    shown = page.locator("[data-signal=e_ctr] .token").all_inner_texts()
    place = next(i for i, (start, _) in enumerate(columns["bytes"]) if start == euro)
    assert shown[place : place + 3] == ["E2", "82", "€"]
    page.locator("[data-signal=e_ctr] .token").nth(place).hover()
    card = page.locator(".card").inner_text()
    assert "bytes E2" in card
    assert "from −0.5" in card
    assert page.locator(".card .top-k table").count() == 4


def test_hints_and_responses_can_be_removed(visit: Visit, scoring_url: str) -> None:
    page = visit(scoring_url)
    fill_in(page)
    page.get_by_label("Remove wrong hint 1").click()
    assert page.locator("#wrong-hints legend").all_inner_texts() == ["Wrong hint 1"]
    hint = page.locator("#wrong-hints [data-part=hint]")
    assert hint.input_value() == REQUEST["wrong_hints"][1]["hint"]
    assert hint.evaluate("one => one === document.activeElement")
    page.get_by_label("Remove wrong hint 1").click()
    page.get_by_label("Remove response 2").click()
    page.click("#score")
    page.locator("[data-signal=e_c] .token").first.wait_for()
    assert "at least one wrong hint" in page.locator(".panels").inner_text()


def test_a_refusal_is_told(visit: Visit, scoring_url: str) -> None:
    page = visit(scoring_url)
    fill_in(page)
    page.fill("[name=tau]", "-1")
    page.click("#score")
    problem = page.locator("#problems .error")
    problem.wait_for()
    assert "tau" in problem.inner_text()
    assert "Request " in problem.inner_text()
    assert page.locator("#score").is_enabled()
    page.fill("[name=tau]", "1")
    page.click("#score")
    problem.wait_for(state="detached")


def test_a_gateway_without_a_teacher_is_told_and_scoring_can_be_cancelled(
    visit: Visit, tokenizer: Tokenizer
) -> None:
    with served_gateway(tokenizer=tokenizer) as url:
        page = visit(url)
        page.route("**/v1/distill/score", lambda route: None)  # no answer comes
        page.click("#example")
        page.click("#score")
        assert page.locator("#score").is_disabled()
        page.click("#cancel")
        page.locator("#score:enabled").wait_for()
        assert page.locator("#problems").inner_text() == ""
        page.unroute("**/v1/distill/score")
        page.click("#score")
        page.locator("#problems .error").wait_for()


def test_the_bearer_token_stays_in_the_pages_memory(
    visit: Visit, byte_level_teacher: str, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    secret, digest = new_token()
    table = TokenTable(runs={"maths": Grant(tokens={digest: now()})})
    write_table(tmp_path / "tokens.json", table)
    security = ServerSecurity(None, Authentication(TokenFile(tmp_path / "tokens.json")))
    with served_gateway([byte_level_teacher], tokenizer=tokenizer, security=security) as url:
        page = visit(url)
        page.click("#example")
        page.click("#score")
        problem = page.locator("#problems .error")
        problem.wait_for()
        assert "see Access" in problem.inner_text()
        page.get_by_label("Bearer token").fill(secret)  # the form is open by now
        page.click("#score")
        page.locator("[data-signal=e_ctr] .token").first.wait_for()
        wait_until(lambda: page.evaluate("location.hash").startswith("#score="))
        assert secret not in page.url
        kept = page.evaluate("JSON.stringify([localStorage, sessionStorage, document.cookie])")
        assert kept == '[{},{},""]'


def test_rows_of_a_rollout_log_can_be_pasted(show: Show) -> None:
    unscored = {k: v for k, v in ROLLOUT.items() if k in ("tokens", "token_ids", "advantage")}
    page = show("\n".join(json.dumps(row) for row in (ROLLOUT, unscored)))
    tokens = page.locator("[data-signal=e_ctr] .token")
    assert tokens.all_inner_texts()[:2] == ["so", " 2"]
    assert (tokens.nth(1).get_attribute("aria-label") or "") == "·2, e_ctr +0.3"
    assert "student" in page.locator("h2", has_text="One-sided").inner_text()
    tokens.nth(6).hover()
    card = page.locator(".card").inner_text()
    assert "wrong 2" in card
    assert "from +0.7" in card
    page.locator(".view-head select").select_option("1")
    assert "without the teacher's scores" in page.locator(".notices").inner_text()


def test_ndjson_lines_can_be_pasted(show: Show) -> None:
    reply = reply_of(response(words(10)), response(words(20)))
    first, second = reply.pop("responses")
    lines = [{"head": reply}, {"response": second}, {"response": first}, {"end": {}}]
    page = show("\n".join(map(json.dumps, lines)))
    assert page.locator("[data-signal=e_ctr] .token").count() == 10
    assert "tiny/teacher" in page.locator(".view-head").inner_text()


def test_a_file_can_be_opened(visit: Visit, gateway_url: str, tmp_path: Path) -> None:
    file = tmp_path / "rollouts.jsonl"
    file.write_text(json.dumps(ROLLOUT))
    page = visit(gateway_url)
    page.click("#tab-paste")
    page.set_input_files("#opened", file)
    page.locator("[data-signal=e_ctr] .token").first.wait_for()


def short_column() -> dict[str, Any]:
    return reply_of(response(words(4), e_c=[0.1]))


@pytest.mark.parametrize(
    ("pasted", "message"),
    [
        ("{", "Line 1 is not JSON"),
        ('{"a": 1}', "neither a reply"),
        ("[1, null]", "neither a reply"),
        ('{"responses": []}', "no response"),
        ('{"responses": [{"tokens": {}}]}', 'Response 1 has no list "tokens.id"'),
        ('{"responses": [{"text": "", "tokens": {"id": []}}]}', "Response 1 has no tokens"),
        (json.dumps(short_column()), '"e_c" has 1 entries, but there are 4 token ids'),
        ('{"head": {}}\n{"error": {"message": "the engine failed"}}', "the engine failed"),
    ],
)
def test_what_cannot_be_shown_is_told(
    visit: Visit, gateway_url: str, pasted: str, message: str
) -> None:
    page = visit(gateway_url)
    page.click("#tab-paste")
    page.fill("#pasted", pasted)
    page.click("#source-paste .primary")
    problem = page.locator("#problems .error")
    problem.wait_for()
    assert message in problem.inner_text()


def test_a_rollout_of_a_run_can_be_picked(visit: Visit, tmp_path: Path) -> None:
    run = tmp_path / "runs" / "first"
    run.mkdir(parents=True)
    (run / "recipe.yaml").write_text("method: {kind: rlcsd}\n")
    rows = [{**ROLLOUT, "step": step, "problem": f"{step} + 3"} for step in (10, 10, 20)]
    (run / "rollouts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (run / "metrics.jsonl").write_text('{"step": 10}\n')
    with served_gateway(runs_dir=run.parent) as url:
        page = visit(url)
        page.click("#tab-runs")
        page.locator("#run").select_option("first")
        options = page.locator("#rollout option")
        options.nth(2).wait_for(state="attached")
        assert options.all_inner_texts()[0] == "✓ step 10: 10 + 3"
        page.locator("#rollout").select_option(index=1)
        page.locator("[data-signal=e_ctr] .token").first.wait_for()
        wait_until(lambda: page.evaluate("location.hash").endswith("rollout=1"))
        again = visit(page.url)
        again.locator("[data-signal=e_ctr] .token").first.wait_for()
        assert again.locator("#rollout").evaluate("one => one.selectedIndex") == 1


def test_of_two_runs_chosen_the_later_is_shown(visit: Visit, tmp_path: Path) -> None:
    for name in ("first", "second"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "rollouts.jsonl").write_text(json.dumps({**ROLLOUT, "problem": name}) + "\n")
        (folder / "metrics.jsonl").write_text('{"step": 10}\n')
    with served_gateway(runs_dir=tmp_path) as url:
        page = visit(url)
        page.route("**/v1/runs/first/rollouts?*", lambda route: None)  # its answer takes long
        page.click("#tab-runs")
        with page.expect_request("**/v1/runs/first/rollouts?*"):
            page.locator("#run").select_option("first")
        with page.expect_event("requestfailed") as given_up:  # its answer can come no more
            page.locator("#run").select_option("second")
        assert "/v1/runs/first/" in given_up.value.url
        expect(page.locator("#rollout option")).to_have_text(["✓ step 10: second"])
        assert page.locator("#problems").inner_text() == ""


def test_tabs_are_moved_by_arrow_keys(visit: Visit, gateway_url: str) -> None:
    page = visit(gateway_url)
    page.focus("#tab-score")
    page.keyboard.press("ArrowRight")
    assert page.locator("#tab-paste").get_attribute("aria-selected") == "true"
    assert page.locator("#source-paste").is_visible()
    page.keyboard.press("ArrowRight")  # the hidden tab of runs is passed over
    assert page.evaluate("document.activeElement.id") == "tab-score"

"""Pages of a gateway that asks for tokens, and what its pages do when it refuses or is away."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.sync_api import Page, Route, expect

from counterhint.authentication import Authentication
from counterhint.server_security import ServerSecurity
from counterhint.tokens import Grant, TokenFile, TokenTable, new_token, now, write_table
from services.queue.base import JobQueue
from services.queue.records import QueuedJob
from tests.services.gateway.pages.serving import served_gateway
from tests.services.gateway.test_run_views import write_run

Visit = Callable[..., Page]


@dataclass(frozen=True)
class Guarded:
    """A gateway that asks for tokens."""

    url: str
    tokens: Path
    token: str
    """Of the run `maths`, which has a folder and a job in the queue."""
    other: str
    """Of the run `logic`, which has neither."""

    def revoke(self) -> None:
        write_table(self.tokens, TokenTable())


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Guarded]:
    write_run(tmp_path / "runs", "maths", steps=5)
    (maths, own_digest), (logic, other_digest) = new_token(), new_token()
    tokens = tmp_path / "tokens.json"
    digests = {"maths": own_digest, "logic": other_digest}
    grants = {name: Grant(tokens={digest: now()}) for name, digest in digests.items()}
    write_table(tokens, TokenTable(runs=grants))
    security = ServerSecurity(None, Authentication(TokenFile(tokens)))

    async def prepare(queue: JobQueue) -> None:
        await queue.enqueue(QueuedJob("maths/a", "maths", 30, b"payload"))

    with served_gateway(prepare=prepare, runs_dir=tmp_path / "runs", security=security) as url:
        yield Guarded(url, tokens, maths, logic)


def use(page: Page, token: str) -> None:
    page.get_by_label("Bearer token").fill(token)
    page.keyboard.press("Enter")


def test_where_a_token_is_asked_for_the_form_opens(guarded: Guarded, visit: Visit) -> None:
    for path in ("", "runs", "runs/maths"):
        page = visit(f"{guarded.url}/{path}")
        expect(page.get_by_label("Bearer token")).to_be_visible()


def test_a_wrong_token_is_told(guarded: Guarded, visit: Visit) -> None:
    for path in ("", "runs", "runs/maths"):
        page = visit(f"{guarded.url}/{path}")
        use(page, "chint_wrong")
        expect(page.locator("#problems")).to_contain_text("token is not known")
        use(page, guarded.token)
        expect(page.locator("#problems")).to_be_empty()


def test_another_run_s_token_shows_nothing_of_a_run(guarded: Guarded, visit: Visit) -> None:
    page = visit(f"{guarded.url}/runs/maths")
    use(page, guarded.other)
    expect(page.locator("#problems")).to_contain_text("the token is for the run 'logic'")
    assert page.locator("#tiles").inner_text() == ""
    assert page.locator(".chart, .group").count() == 0


def test_a_token_is_kept_for_other_pages_only_when_told_to(guarded: Guarded, visit: Visit) -> None:
    page = visit(f"{guarded.url}/runs")
    use(page, guarded.token)
    page.locator("tbody a", has_text="maths").click()
    page.wait_for_url("**/runs/maths")
    assert page.get_by_label("Bearer token").input_value() == ""
    page.get_by_label("Bearer token").fill(guarded.token)
    page.get_by_label("Keep for the pages of this tab").check()
    page.get_by_role("button", name="Use").click()
    expect(page.locator("#state")).to_have_text("running")
    page.get_by_role("link", name="Runs").click()
    page.wait_for_url("**/runs")
    expect(page.locator("tbody tr")).to_have_count(1)
    page.locator("#access summary").click()
    page.get_by_label("Keep for the pages of this tab").uncheck()
    assert page.evaluate("JSON.stringify([localStorage, sessionStorage])") == "[{},{}]"


def test_a_token_revoked_while_a_page_looks_is_told_once(guarded: Guarded, visit: Visit) -> None:
    page = visit(f"{guarded.url}/runs/maths")
    use(page, guarded.token)
    expect(page.locator("#state")).to_have_text("running")
    page.clock.install()  # the next look comes by itself, later ones when time is told to pass
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    guarded.revoke()
    expect(page.locator("#problems")).to_contain_text("it was revoked")
    before = len(asked)
    page.clock.run_for(300_000)
    page.evaluate("fetch('../health')")  # what was asked for before is known by then
    assert [url for url in asked[before:] if "/v1/" in url] == []


def test_a_link_opens_once_the_token_is_there(guarded: Guarded, visit: Visit) -> None:
    page = visit(f"{guarded.url}/#run=maths&step=10&rollout=0")
    expect(page.locator("#problems")).to_contain_text("asks for a bearer token")
    use(page, guarded.token)
    page.locator("[data-signal=e_ctr] .token").first.wait_for()


def test_with_tokens_a_run_has_the_queue_s_figures_of_its_token(
    guarded: Guarded, visit: Visit
) -> None:
    page = visit(f"{guarded.url}/runs")
    use(page, guarded.token)
    row = page.locator("tbody tr")
    expect(row).to_have_count(1)
    assert row.locator("td").all_inner_texts()[-3:] == ["1", "0", "0"]
    page = visit(f"{guarded.url}/runs/maths")
    use(page, guarded.token)
    expect(page.locator(".tiles")).to_contain_text("In the queue\n1", use_inner_text=True)


def _lost(route: Route) -> None:
    route.abort()


def _cut(route: Route) -> None:
    route.fulfill(status=200, content_type="application/json", body='{"run": "ma')


def _broken(route: Route) -> None:
    route.fulfill(status=200, content_type="application/json", body='{"rows": null}')


@pytest.mark.parametrize(
    ("answer", "said"),
    [(_lost, "is not reachable"), (_cut, "no JSON"), (_broken, "This page failed")],
)
def test_whatever_goes_wrong_a_page_goes_on_looking(
    visit: Visit, tmp_path: Path, answer: Callable[[Route], None], said: str
) -> None:
    folder = write_run(tmp_path, "maths", steps=5)
    with served_gateway(runs_dir=tmp_path) as url:
        page = visit(f"{url}/runs/maths")
        if answer is _broken:  # which the console is told of
            page.add_init_script("console.error = () => {}")
            page.reload()
        reward = page.locator(".chart", has_text="Reward").locator("output")
        expect(reward).to_have_text("reward 0.04")
        pattern = "**/v1/training-runs/maths?*"
        page.route(pattern, answer)
        problem = page.locator("#problems")
        expect(problem).to_contain_text(said)
        expect(problem).to_contain_text("Trying again in")
        expect(problem).to_contain_text("What is shown is of")
        expect(reward).to_have_text("reward 0.04")
        page.unroute(pattern)
        with (folder / "metrics.jsonl").open("a") as file:
            file.write(json.dumps({"step": 5, "rollout/reward": 0.875}) + "\n")
        page.evaluate("window.dispatchEvent(new Event('online'))")
        expect(reward).to_have_text("reward 0.875")
        expect(problem).to_be_empty()

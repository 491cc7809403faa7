import copy
import math

import numpy as np
import pytest

from tests.services.gateway.pages.conftest import Show
from tests.services.gateway.pages.replies import reply_of, response, words

REPLY = reply_of(response(words(300)), response(words(40), seed=1))
EURO = "€".encode()


def shown_number(value: float) -> str:
    """As the page writes it: four significant digits, a real minus."""
    return f"{value:.4g}".replace("-", "−")


def test_hovering_shows_the_token_in_full(show: Show) -> None:
    page = show(REPLY)
    columns = REPLY["responses"][0]["tokens"]
    index = 9
    page.locator("[data-signal=e_ctr] .token").nth(index).hover()
    card = page.locator(".card")
    text = card.inner_text()
    assert card.locator("h3").inner_text() == "·3"
    for fact in ("id 1009", "token 10 of 300", "task", "bytes 20 33", "selected"):
        assert fact in text
    for name, values in columns["log_probs"].items():
        row = card.locator("tr", has=page.get_by_role("rowheader", name=name, exact=True))
        assert shown_number(values[index]) in row.inner_text()
        assert f"{100 * math.exp(values[index]):.0f}%" in row.inner_text()
    for signal in ("e_ctr", "e_c", "residual"):
        assert shown_number(columns[signal][index]).lstrip("−") in text
    top = card.locator(".top-k table").first
    assert top.locator("tbody tr").count() == 3
    assert top.locator("tbody tr").first.inner_text().startswith("·3")
    assert top.locator(".sampled").count() == 1


def test_the_card_goes_with_the_pointer(show: Show) -> None:
    page = show(REPLY)
    page.locator("[data-signal=e_c] .token").nth(2).hover()
    page.locator(".card").wait_for(state="visible")
    assert page.locator(".token.current").count() == 2
    page.mouse.move(1, 1)
    page.locator(".card").wait_for(state="hidden")


def test_the_keyboard_reaches_every_token(show: Show) -> None:
    page = show(REPLY)
    card = page.locator(".card")
    focused = "document.activeElement.dataset.index"
    page.locator(".controls input").last.focus()
    page.keyboard.press("Tab")
    assert page.evaluate(focused) == "0"
    page.keyboard.press("ArrowRight")
    assert page.evaluate(focused) == "1"
    assert "token 2 of 300" in card.inner_text()
    page.keyboard.press("End")
    assert page.evaluate(focused) == "299"
    page.keyboard.press("ArrowRight")
    assert page.evaluate(focused) == "299"
    page.keyboard.press("ArrowLeft")
    assert page.evaluate(focused) == "298"
    page.keyboard.press("Escape")
    assert card.is_hidden()
    page.keyboard.press("Home")
    assert page.evaluate(focused) == "0"
    assert "token 1 of 300" in card.inner_text()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.closest('.tokens').dataset.signal") == "e_c"
    assert page.locator("[data-signal=e_ctr] .token[tabindex='0']").count() == 1


def test_arrow_keys_move_to_the_line_above_and_below(show: Show) -> None:
    page = show(REPLY)
    tokens = page.locator("[data-signal=e_ctr] .token")
    start = words(60).index("So") + 2  # on the second line
    tokens.nth(start).focus()
    box = tokens.nth(start).bounding_box()
    page.keyboard.press("ArrowUp")
    above = page.locator(":focus").bounding_box()
    page.keyboard.press("ArrowDown")
    assert page.evaluate("document.activeElement.dataset.index") == str(start)
    assert box is not None
    assert above is not None
    assert above["y"] < box["y"]


def test_gate_only_and_classes_dim_the_others(show: Show) -> None:
    selected = [index % 2 == 0 for index in range(40)]
    answer = response(words(40), selected=selected)
    page = show(reply_of(answer))
    dimmed = "found => found.map(one => one.classList.contains('dimmed'))"
    tokens = page.locator("[data-signal=e_ctr] .token")
    page.get_by_label("Gate only").check()
    assert tokens.evaluate_all(dimmed) == [not one for one in selected]
    page.get_by_role("checkbox", name="style").uncheck()
    kinds = answer["tokens"]["class"]
    wanted = [not one or kind == "style" for one, kind in zip(selected, kinds, strict=True)]
    assert tokens.evaluate_all(dimmed) == wanted
    page.get_by_label("Gate only").uncheck()
    assert tokens.evaluate_all(dimmed) == [kind == "style" for kind in kinds]
    uncoloured = tokens.first.evaluate("one => getComputedStyle(one).backgroundColor")
    assert kinds[0] == "style"
    assert uncoloured == "rgb(255, 255, 255)"


def test_the_summary_holds_the_means(show: Show) -> None:
    page = show(REPLY)
    columns = REPLY["responses"][0]["tokens"]
    kinds, e_c = np.array(columns["class"]), np.abs(columns["e_c"])
    for name in ("style", "task", "other"):
        row = page.locator(".summary tr", has=page.get_by_role("rowheader", name=name, exact=True))
        _, tokens, _, one_sided, selected = row.inner_text().split("\t")
        assert int(tokens) == (kinds == name).sum()
        assert float(one_sided) == pytest.approx(e_c[kinds == name].mean(), rel=0.01)
        share = np.array(columns["selected"])[kinds == name].mean()
        assert float(selected.rstrip("%")) == pytest.approx(100 * share, abs=0.51)


def test_the_histogram_counts_every_token(show: Show) -> None:
    page = show(REPLY)
    figure = page.locator(".histogram").first
    assert "style" in (figure.locator("svg").get_attribute("aria-label") or "")
    figure.locator("summary").click()
    rows = figure.locator("tbody tr").all_inner_texts()
    counts = np.array([[int(cell) for cell in row.split("\t")[1:]] for row in rows])
    kinds = REPLY["responses"][0]["tokens"]["class"]
    assert counts.sum(axis=0).tolist() == [kinds.count(n) for n in ("style", "task", "other")]


def test_responses_can_be_picked(show: Show) -> None:
    page = show(REPLY)
    page.locator(".view-head select").select_option("1")
    assert page.locator("[data-signal=e_ctr] .token").count() == 40
    assert "40" in page.locator(".view-head").inner_text()


def test_pieces_of_a_character_show_their_bytes(show: Show) -> None:
    texts = ["costs ", "", "", "€", " 5"]
    ends = [6, 7, 8, 9, 11]
    answer = response(texts, bytes=[[a, b] for a, b in zip([0, *ends], ends, strict=False)])
    page = show(reply_of(answer))
    tokens = page.locator("[data-signal=e_ctr] .token")
    assert tokens.all_inner_texts()[1:4] == [f"{EURO[0]:X}", f"{EURO[1]:X}", "€"]
    assert "boxed" in (tokens.nth(1).get_attribute("class") or "")
    assert (tokens.nth(1).get_attribute("aria-label") or "").startswith("E2, ")
    tokens.nth(3).hover()
    assert "bytes AC · completes a character" in page.locator(".card").inner_text()
    tokens.nth(2).hover()
    assert "part of a character" in page.locator(".card").inner_text()


def test_blanks_are_visible(show: Show) -> None:
    page = show(reply_of(response(["a", "\n\n", "\t", " b", "\r", "\x00", "\u00a0"])))
    texts = page.locator("[data-signal=e_ctr] .token").evaluate_all(
        "found => found.map(one => one.textContent)"
    )
    assert texts == ["a", "↵\n↵\n", "⇥\t", " b", "␍", "␀", "⍽"]
    page.locator("[data-signal=e_ctr] .token").nth(3).hover()
    assert page.locator(".card h3").inner_text() == "·b"


def test_markup_and_direction_marks_are_inert(show: Show) -> None:
    evil = "<script>document.title='x'</script><img src=x onerror=\"document.title='x'\">"
    texts = ["שלום", " עולם", " abc", evil, "\u202egnp.exe", "\u2066", "</span>"]
    answer = response(texts)
    answer["missing"] = [{"context": evil, "reason": evil}]
    reply = reply_of(answer) | {"model": evil, "engine": evil}
    reply["contexts"][0]["name"] = evil
    page = show(reply)
    tokens = page.locator("[data-signal=e_ctr] .token")
    shown = [*texts[:4], "[U+202E]gnp.exe", "[U+2066]", "</span>"]
    assert tokens.evaluate_all("found => found.map(one => one.textContent)") == shown
    for index in range(len(texts)):
        tokens.nth(index).hover()
    page.wait_for_timeout(200)
    assert page.title() == "Token view · Counterhint"
    assert page.locator("#token-view script, #token-view img").count() == 0
    # Right-to-left tokens keep their places.
    lefts = "found => found.slice(0, 3).map(one => one.getBoundingClientRect().left)"
    first, second, third = tokens.evaluate_all(lefts)
    assert first < second < third


def test_a_reply_without_signals_says_why(show: Show) -> None:
    gone = dict.fromkeys(("e_ctr", "e_c", "selected", "residual", "modulated"))
    page = show(reply_of(response(words(5), **gone)))
    said = page.locator(".panels").inner_text()
    assert "at least one wrong hint" in said
    assert "student's log probs" in said
    assert page.get_by_label("Gate only").is_disabled()
    assert page.locator(".histogram").count() == 0


def test_a_reply_without_texts_shows_ids(show: Show) -> None:
    gone = dict.fromkeys(("text", "bytes", "class"))
    answer = copy.deepcopy(response(words(5))) | {"text": None}
    answer["tokens"] |= gone
    page = show(reply_of(answer))
    assert page.locator("[data-signal=e_ctr] .token").first.inner_text() == "#1000"
    assert "no tokenizer" in page.locator(".notices").inner_text()
    page.locator("[data-signal=e_ctr] .token").first.hover()
    assert page.locator(".card h3").inner_text() == "#1000"

"""Rows of rollouts, as the page shows what is pasted and as the API gives a run's own."""

from collections.abc import Callable
from typing import Any

from playwright.sync_api import Page

from counterhint.views.rollouts import rollouts_reply
from tests.services.gateway.pages.serving import served_gateway
from tests.services.gateway.pages.test_sources import ROLLOUT

SPLIT = {**ROLLOUT, "tokens": ["é", "\ufffd", "\ufffd", "", "𝄞", "a", "b"]}
UNSCORED = {name: ROLLOUT[name] for name in ("tokens", "token_ids", "advantage")}


def test_pasted_rows_and_a_run_s_own_have_the_same_reply(visit: Callable[..., Page]) -> None:
    rows = [ROLLOUT, SPLIT, UNSCORED]
    with served_gateway() as url:
        page = visit(f"{url}/")
        pasted: dict[str, Any] = page.evaluate(
            """async rows => {
                const beside = document.querySelector("script[src]").src;
                const { replyOfRows } = await import(new URL("rollout_rows.js", beside));
                return replyOfRows(rows);
            }""",
            rows,
        )
    expected = rollouts_reply(rows)
    assert pasted["contexts"] == expected["contexts"]
    for one, other in zip(pasted["responses"], expected["responses"], strict=True):
        other["tokens"]["bytes"] = [
            None if bounds is None else list(bounds) for bounds in other["tokens"]["bytes"]
        ]
        assert one == {name: other[name] for name in one}

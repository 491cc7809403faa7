"""Scripts in one file, in a browser."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from counterhint.views.inlined import inlined_script, inlined_styles
from tests.services.gateway.pages.replies import reply_of, response, words


def test_one_file_shows_the_token_view(visit: Callable[..., Page], tmp_path: Path) -> None:
    reply = json.dumps(reply_of(response(words(50))))
    styles = inlined_styles("theme.css", "token_view.css")
    entry = tmp_path / "entry.js"
    entry.write_text(
        'import { TokenView } from "./token_view.js";\n'
        f'new TokenView(document.querySelector("main")).show({reply});\n',
        encoding="utf-8",
    )
    page_file = tmp_path / "report.html"
    page_file.write_text(
        f'<!doctype html><meta charset="utf-8"><style>{styles}</style><main></main>'
        f"<script>{inlined_script(entry)}</script>",
        encoding="utf-8",
    )
    page = visit(page_file.as_uri())
    assert page.locator("[data-signal=e_ctr] .token").count() == 50
    page.locator("[data-signal=e_c] .token").nth(3).hover()
    expect(page.locator(".card")).to_contain_text("id 1003")


def test_nothing_in_the_scripts_ends_their_element(tmp_path: Path) -> None:
    (tmp_path / "entry.js").write_text('import { RunGroups } from "./run_groups.js";\n')
    script = inlined_script(tmp_path / "entry.js")
    assert "class TokenView" in script
    assert "</script" not in script


@pytest.mark.parametrize("line", ['import x from "./b.js";', "export default 1;", "export { a };"])
def test_other_forms_of_import_and_export_are_refused(tmp_path: Path, line: str) -> None:
    (tmp_path / "a.js").write_text(f"const a = 1;\n{line}\n")
    with pytest.raises(ValueError, match=r"a\.js: .* cannot be inlined"):
        inlined_script(tmp_path / "a.js")


def test_modules_keep_their_own_names(tmp_path: Path, visit: Callable[..., Page]) -> None:
    (tmp_path / "a.js").write_text(
        'import { x as y } from "./b.js";\nconst x = y + 1;\ndocument.title = x;\n'
    )
    (tmp_path / "b.js").write_text("export const x = 1;\n")
    page_file = tmp_path / "page.html"
    script = inlined_script(tmp_path / "a.js")
    page_file.write_text(f"<title>t</title><script>{script}</script>")
    assert visit(page_file.as_uri()).title() == "2"

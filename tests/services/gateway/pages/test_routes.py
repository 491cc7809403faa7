import re
from pathlib import Path

import httpx
import pytest

from counterhint import views
from counterhint.hints import builtin_templates
from services.gateway import pages

FOLDER = Path(pages.__file__).with_name("pages")


def _files(folder: Path) -> list[Path]:
    return sorted(
        path for path in folder.iterdir() if path.suffix in (".js", ".css", ".svg", ".html")
    )


def addresses(html: str) -> list[str]:
    return re.findall(r'(?:href|src)="(static/[^"]+)"', html)


def test_the_page_is_checked_for_changes_each_time(gateway_url: str) -> None:
    first = httpx.get(gateway_url)
    assert first.status_code == 200
    assert first.headers["content-type"] == "text/html; charset=utf-8"
    assert first.headers["cache-control"] == "no-cache"
    again = httpx.get(gateway_url, headers={"If-None-Match": f'"other", {first.headers["etag"]}'})
    assert (again.status_code, again.content) == (304, b"")
    assert httpx.get(gateway_url, headers={"If-None-Match": '"other"'}).status_code == 200


def test_static_files_are_kept_for_ever_under_their_version(gateway_url: str) -> None:
    found = addresses(httpx.get(gateway_url).text)
    assert len(found) == 5
    for address in found:
        answer = httpx.get(f"{gateway_url}/{address}")
        assert answer.status_code == 200
        assert "immutable" in answer.headers["cache-control"]
        tag = answer.headers["etag"]
        again = httpx.get(f"{gateway_url}/{address}", headers={"If-None-Match": tag})
        assert again.status_code == 304
    script = httpx.get(f"{gateway_url}/{found[-1]}")
    assert script.headers["content-type"].startswith("text/javascript")


@pytest.mark.parametrize("name", ["nothing.js", "index.html", "..%2Fpages.py"])
def test_no_other_file_is_served(gateway_url: str, name: str) -> None:
    version = addresses(httpx.get(gateway_url).text)[0].split("/")[1]
    assert httpx.get(f"{gateway_url}/static/{version}/{name}").status_code == 404


def test_files_of_another_version_are_not_served(gateway_url: str) -> None:
    answer = httpx.get(f"{gateway_url}/static/0123/page.js")
    assert answer.status_code == 404
    assert "page.js" in answer.json()["error"]["message"]


def test_the_version_changes_with_a_file(tmp_path: Path) -> None:
    for name, text in {"index.html": "{{static}}", "a.js": "1", "b.css": "2"}.items():
        (tmp_path / name).write_text(text)
    before = pages._version(pages._static_files(tmp_path))
    (tmp_path / "b.css").write_text("3")
    assert pages._version(pages._static_files(tmp_path)) != before


def test_the_form_offers_every_hint_template() -> None:
    html = (FOLDER / "index.html").read_text()
    options = re.findall(r"<option>(\w+)</option>", html)
    assert sorted(options) == sorted(builtin_templates())


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.html")), ids=lambda path: path.name)
def test_pages_hold_no_inline_script_or_style(path: Path) -> None:
    html = path.read_text()
    assert not re.search(r"<script(?![^>]*\ssrc=)|<style|\sstyle=|\son\w+=|javascript:", html)


def test_no_page_s_file_hides_a_view_s() -> None:
    files = [path.name for folder in (FOLDER, views.FOLDER) for path in _files(folder)]
    assert len(files) == len(set(files))


@pytest.mark.parametrize(
    "path", [*_files(FOLDER), *_files(views.FOLDER)], ids=lambda path: path.name
)
def test_files_name_no_other_host(path: Path) -> None:
    text = path.read_text().replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"https?://|[\"'(]//\w", text)

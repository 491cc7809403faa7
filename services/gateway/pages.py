"""The pages that people open in a browser, and the files that these load.

Everything is read when the router is made: the pages from `pages/`, the views in them from
`counterhint.views`. Scripts, styles and images of both stand below `/static/<version>/`, where the
version is a digest of them all: they can be kept for ever, and a page never mixes the files of two
releases. Addresses in the pages are relative, so the gateway also works behind a proxy that serves
it below a path.
"""

import hashlib
import mimetypes
from dataclasses import dataclass
from pathlib import Path

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse

from counterhint import views
from services.gateway.errors import HttpError

_FOLDER = Path(__file__).with_name("pages")
_FOREVER = "public, max-age=31536000, immutable"
_STATIC = "{{static}}"
"""Stands in the pages for the relative address of the static files."""
_ROOT = "{{root}}"
"""Stands in the pages for the relative address of the gateway."""


@dataclass(frozen=True, slots=True)
class StaticFile:
    """A file as it is sent."""

    content: bytes
    media_type: str
    etag: str


def page_router(folder: Path = _FOLDER) -> APIRouter:
    """Routes of the pages of a folder: `/` is `index.html`."""
    router = APIRouter(include_in_schema=False)
    files = _static_files(folder, views.FOLDER)
    version = _version(files)
    index = _page(folder / "index.html", version)
    runs = _page(folder / "runs.html", version)
    run = _page(folder / "run.html", version, root="../")

    @router.get("/")
    async def token_view(request: Request) -> Response:
        return _answer(request, index, "no-cache")

    @router.get("/runs")
    async def runs_page(request: Request) -> Response:
        return _answer(request, runs, "no-cache")

    @router.get("/runs/{name}")
    async def run_page(request: Request, name: str) -> Response:  # the script reads the address
        return _answer(request, run, "no-cache")

    @router.get("/static/{asked}/{name}")
    async def static_file(request: Request, asked: str, name: str) -> Response:
        if asked != version or name not in files:
            raise HttpError(404, "NOT_FOUND", f"there is no file {name!r} of version {asked!r}")
        return _answer(request, files[name], _FOREVER)

    return router


def _static_files(*folders: Path) -> dict[str, StaticFile]:
    return {
        path.name: _file(path.read_bytes(), mimetypes.guess_type(path.name)[0] or "text/plain")
        for folder in folders
        for path in sorted(folder.iterdir())
        if path.suffix in (".css", ".js", ".svg")
    }


def _version(files: dict[str, StaticFile]) -> str:
    digest = hashlib.sha256()
    for name, file in files.items():
        digest.update(f"{name} {file.etag}\n".encode())
    return digest.hexdigest()[:16]


def _page(path: Path, version: str, root: str = "") -> StaticFile:
    text = path.read_text(encoding="utf-8").replace(_STATIC, f"{root}static/{version}")
    return _file(text.replace(_ROOT, root).encode(), HTMLResponse.media_type)


def _file(content: bytes, media_type: str) -> StaticFile:
    return StaticFile(content, media_type, f'"{hashlib.sha256(content).hexdigest()[:32]}"')


def _answer(request: Request, file: StaticFile, cache: str) -> Response:
    """The file, or 304 when the browser has it (RFC 9110, section 13.1.2)."""
    headers = {"ETag": file.etag, "Cache-Control": cache}
    known = [tag.strip() for tag in request.headers.get("if-none-match", "").split(",")]
    if "*" in known or file.etag in (tag.removeprefix("W/") for tag in known):
        return Response(status_code=304, headers=headers)
    return Response(file.content, media_type=file.media_type, headers=headers)

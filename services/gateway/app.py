"""The gateway's application: its routers, and what every request passes before them."""

from importlib.metadata import version

from fastapi import FastAPI

from services.gateway import (
    completions,
    docs,
    jobs,
    pages,
    probes,
    run_views,
    runs,
    score,
    teachers,
)
from services.gateway.errors import ERROR_REPLIES, install_error_handlers
from services.gateway.middleware import Gate
from services.gateway.state import Gateway

_DESCRIPTION = """
Scores solutions token by token under correct and wrong hints.

Errors have one form, `{"error": {"message", "type", "param", "code"}, "request_id"}`; `code` is
stable. Send `X-Request-Id` to choose the id. Where the gateway asks for tokens, send
`Authorization: Bearer …`.
"""


def make_app(gateway: Gateway) -> FastAPI:
    """The application of a gateway."""
    app = FastAPI(
        title="Counterhint gateway",
        version=version("counterhint"),
        description=_DESCRIPTION,
        docs_url=None,  # they load their scripts from elsewhere; docs.py has a page without any
        redoc_url=None,
        responses={status: ERROR_REPLIES[status] for status in (422, 429, 503)},
    )
    app.state.gateway = gateway
    install_error_handlers(app)
    app.add_middleware(Gate, gateway=gateway)
    for module in (score, jobs, completions, runs, run_views, teachers, probes, docs):
        app.include_router(module.router)
    app.include_router(pages.page_router())
    return app

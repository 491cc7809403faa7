"""`/docs`: the OpenAPI document as a page that needs no script and nothing from elsewhere."""

import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader

from services.gateway.state import GatewayState

_FOLDER = Path(__file__).with_name("docs_page")
_PAGES = Path(__file__).with_name("pages")
_CODE = re.compile(r"`([^`]+)`")
_TOKEN = '-H "Authorization: Bearer $COUNTERHINT_TOKEN"'
"""Gives curl the token of the environment variable that our own clients read."""


def paragraphs(text: str) -> list[list[str]]:
    """A description's paragraphs, each as plain text and code (in backticks) by turns."""
    return [_CODE.split(paragraph) for paragraph in text.strip().split("\n\n")]


_PAGE = Environment(loader=FileSystemLoader(_FOLDER), autoescape=True, trim_blocks=True)
_PAGE.filters["paragraphs"] = paragraphs

router = APIRouter(include_in_schema=False)


@dataclass(frozen=True, slots=True)
class Operation:
    """A method of a path, as the page shows it."""

    method: str
    path: str
    anchor: str
    """Its id on the page."""
    description: str
    parameters: list[dict[str, Any]]
    body: str
    """Name of the body's schema; empty without a body."""
    curl: str
    """A line that runs as it stands, with `$COUNTERHINT_TOKEN` where a token is asked for."""
    replies: dict[str, str]
    """Description by status."""


@dataclass(frozen=True, slots=True)
class Property:
    """One key of an object."""

    name: str
    type: str
    required: bool
    default: str
    description: str


@router.get("/docs")
async def docs(request: Request, gateway: GatewayState) -> HTMLResponse:
    """The page."""
    document = request.app.openapi()
    schemas: dict[str, Any] = document["components"]["schemas"]
    url = str(request.base_url).rstrip("/")
    page = _PAGE.get_template("docs.html").render(
        info=document["info"],
        operations=list(operations(document, url, gateway.authentication.asks)),
        schemas={
            name: (schema.get("description", ""), properties(schema))
            for name, schema in sorted(schemas.items())
            if "properties" in schema
        },
    )
    return HTMLResponse(page)


@router.get("/docs/icon.svg")
async def icon() -> Response:
    """The icon of all pages."""
    return Response((_PAGES / "icon.svg").read_text(encoding="utf-8"), media_type="image/svg+xml")


@router.get("/docs/style.css")
async def style() -> Response:
    """The page's style."""
    return Response((_FOLDER / "docs.css").read_text(encoding="utf-8"), media_type="text/css")


def operations(document: dict[str, Any], url: str, asks: bool = False) -> Iterator[Operation]:
    """The operations of an OpenAPI document, in its order.

    Args:
        document: the document.
        url: where the gateway is, for the lines of curl.
        asks: whether it asks for tokens.
    """
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            schema = _body_schema(operation)
            yield Operation(
                method=method.upper(),
                path=path,
                anchor=operation.get("operationId", f"{method}{path}"),
                description=operation.get("description", ""),
                parameters=operation.get("parameters", []),
                body="" if schema is None else type_name(schema),
                curl=_curl(
                    method.upper(),
                    url + path,
                    _example(document, schema),
                    asks and "security" in operation,
                ),
                replies={
                    status: reply["description"]
                    for status, reply in sorted(operation["responses"].items())
                },
            )


def properties(schema: dict[str, Any]) -> list[Property]:
    """The keys of an object's schema."""
    required = schema.get("required", ())
    return [
        Property(
            name=name,
            type=type_name(one),
            required=name in required,
            default=json.dumps(one["default"]) if "default" in one else "",
            description=one.get("description", ""),
        )
        for name, one in schema["properties"].items()
    ]


def type_name(schema: dict[str, Any]) -> str:
    """A schema's type in a few words."""
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    if kinds := schema.get("anyOf") or schema.get("oneOf"):
        return " or ".join(map(type_name, kinds))
    if "enum" in schema:
        return " or ".join(json.dumps(value) for value in schema["enum"])
    if schema.get("type") == "array":
        return f"list of {type_name(schema.get('items', {}))}"
    if schema.get("type") == "object" and isinstance(schema.get("additionalProperties"), dict):
        return f"object of {type_name(schema['additionalProperties'])}"
    return str(schema.get("type", "any"))


def _body_schema(operation: dict[str, Any]) -> dict[str, Any] | None:
    if "requestBody" not in operation:
        return None
    schema: dict[str, Any] = operation["requestBody"]["content"]["application/json"]["schema"]
    return schema


def _example(document: dict[str, Any], schema: dict[str, Any] | None) -> Any:
    """The first example of a body; None where there is none."""
    if schema is None:
        return None
    kinds = schema.get("anyOf") or schema.get("oneOf") or [schema]
    named = document["components"]["schemas"][type_name(kinds[0])]
    return next(iter(named.get("examples", ())), None)


def _curl(method: str, url: str, example: Any, asks: bool) -> str:
    words = ["curl", "-s"]
    if method not in ("GET", "POST"):
        words += ["-X", method]
    words.append(url)
    if example is not None:
        words += ["-H", "Content-Type: application/json", "-d", json.dumps(example)]
    line = shlex.join(words)
    return f"{line} {_TOKEN}" if asks else line

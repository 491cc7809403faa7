"""The OpenAPI document and its page: what they show runs as it stands."""

import asyncio
import json
import os
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import httpx

from counterhint.authentication import Authentication
from counterhint.server_security import ServerSecurity
from counterhint.tokens import TokenFile, TokenTable, new_token, now, write_table
from services.gateway.docs import operations, type_name
from services.gateway.tokenizer import Tokenizer
from tests.services.gateway.running import with_gateway


class Page(HTMLParser):
    """What a page loads, and the lines of its code blocks."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.scripts = 0
        self.code: list[str] = []
        self._in_code = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.scripts += tag == "script"
        if tag in ("link", "img", "script", "a"):
            self.loads += [value for name in ("href", "src") if (value := given.get(name))]
        self._in_code = tag == "code"
        if self._in_code:
            self.code.append("")

    def handle_endtag(self, tag: str) -> None:
        self._in_code = False

    def handle_data(self, data: str) -> None:
        if self._in_code:
            self.code[-1] += data


def test_every_example_of_a_body_is_taken(byte_level_teacher: str, tokenizer: Tokenizer) -> None:
    async def use(client: httpx.AsyncClient) -> None:
        document = (await client.get("/openapi.json")).json()
        model = (await client.get("/v1/models")).json()["data"][0]["id"]
        posted = []
        for path, methods in document["paths"].items():
            if "post" not in methods:
                continue
            body = methods["post"]["requestBody"]["content"]["application/json"]["schema"]
            for kind in body.get("anyOf") or body.get("oneOf") or [body]:
                schema = document["components"]["schemas"][type_name(kind)]
                for example in schema.get("examples", ()):
                    content = {**example, "model": model} if "model" in example else example
                    answer = await client.post(path, json=content)
                    assert answer.is_success, (path, answer.text)
                    posted.append((path, type_name(kind)))
        assert {*posted} >= {
            ("/v1/distill/score", "ScoreRequest"),
            ("/v1/jobs", "ScoreRequest"),
            ("/v1/jobs", "RawJob"),
        }

    with_gateway(use, [byte_level_teacher], tokenizer=tokenizer)


def test_every_route_says_its_errors_in_the_one_form() -> None:
    async def use(client: httpx.AsyncClient) -> None:
        document = (await client.get("/openapi.json")).json()
        for path, methods in document["paths"].items():
            for method, operation in methods.items():
                assert operation["description"], (method, path)
                for status, reply in operation["responses"].items():
                    if status[0] == "2" or path == "/ready":
                        continue
                    schema = reply["content"]["application/json"]["schema"]
                    assert type_name(schema) == "ErrorReply", (method, path, status)

    with_gateway(use)


def test_the_page_loads_nothing_from_elsewhere_and_its_curl_lines_run(
    byte_level_teacher: str, tokenizer: Tokenizer
) -> None:
    async def use(client: httpx.AsyncClient) -> None:
        answer = await client.get("/docs")
        page = Page(answer.text)
        assert page.scripts == 0
        for place in page.loads:
            assert not re.match(r"[a-z]+:|//", place)
            if not place.startswith("#"):
                assert (await client.get(f"/{place}")).status_code == 200
        lines = [line for line in page.code if line.startswith("curl ") and "{job_id}" not in line]
        score = next(line for line in lines if "/v1/distill/score" in line)
        process = await asyncio.create_subprocess_shell(
            score, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        out, _ = await process.communicate()
        (response,) = json.loads(out)["responses"]
        assert response["text"] == "2+3 = 5"

    with_gateway(use, [byte_level_teacher], tokenizer=tokenizer)


def test_the_page_shows_code_as_code_and_says_where_the_token_goes(tmp_path: Path) -> None:
    token, digest = new_token()
    write_table(tmp_path / "tokens.json", TokenTable(operators={"tool": {digest: now()}}))
    security = ServerSecurity(None, Authentication(TokenFile(tmp_path / "tokens.json")))

    async def use(client: httpx.AsyncClient) -> None:
        text = (await client.get("/docs")).text
        assert "`" not in text
        assert "<code>X-Request-Id</code>" in text
        page = Page(text)
        for place in page.loads:
            if place.startswith("#"):
                assert f'id="{place[1:]}"' in text
        lines = [line for line in page.code if line.startswith("curl ")]
        (runs,) = (line for line in lines if "/v1/runs " in line)
        assert runs.endswith('-H "Authorization: Bearer $COUNTERHINT_TOKEN"')
        (health,) = (line for line in lines if line.endswith("/health"))
        environment = {**os.environ, "COUNTERHINT_TOKEN": token}
        for line, answer in ((runs, []), (health, {"status": "ok"})):
            process = await asyncio.create_subprocess_shell(
                line, stdout=asyncio.subprocess.PIPE, env=environment
            )
            out, _ = await process.communicate()
            assert json.loads(out) == answer

    with_gateway(use, security=security)


def test_texts_of_the_document_are_inert_on_the_page() -> None:
    document: dict[str, Any] = {
        "components": {"schemas": {"Body": {"examples": [{"a": 'it\'s <b> & "c"'}]}}},
        "paths": {
            "/x": {
                "post": {
                    "description": "d",
                    "requestBody": {
                        "content": {
                            "application/json": {"schema": {"$ref": "#/components/schemas/Body"}}
                        }
                    },
                    "responses": {"200": {"description": "ok"}},
                }
            }
        },
    }
    (operation,) = operations(document, "http://h")
    assert operation.body == "Body"
    assert operation.curl == (
        "curl -s http://h/x -H 'Content-Type: application/json' "
        """-d '{"a": "it'"'"'s <b> & \\\\"c\\\\""}'"""
    ).replace("\\\\", "\\")

"""Other forms of a schema, ids by content, and refusals of bodies in the form of the API."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from dimesh.http.host import HttpHost
from dimesh.http.limits import HttpLimits
from dimesh.registry.jsonschema.language import JsonSchema
from dimesh.spi.schema import Outcome

from .client import Client

MONEY: dict[str, Any] = {
    "type": "object",
    "properties": {"amount": {"$ref": "#/definitions/n"}, "unit": {"$ref": "units/unit.json"}},
    "required": ["amount"],
    "definitions": {"n": {"type": "number"}},
}
ORDER: dict[str, Any] = {
    "type": "object",
    "properties": {"total": {"$ref": "money.json"}, "tax": {"$ref": "money.json#/definitions/n"}},
    "definitions": {"money.json": {"title": "another part with that name"}},
}


def json_schema(schema: Any, *references: tuple[str, str]) -> dict[str, Any]:
    return {
        "schema": json.dumps(schema),
        "schemaType": "JSON",
        "references": [{"name": n, "subject": s, "version": 1} for n, s in references],
    }


@pytest.fixture
async def call() -> Client:
    made = Client()
    await made("POST", "/subjects/unit/versions", json_schema({"enum": ["EUR", "USD"]}))
    await made("POST", "/subjects/money/versions", json_schema(MONEY, ("units/unit.json", "unit")))
    await made("POST", "/subjects/orders/versions", json_schema(ORDER, ("money.json", "money")))
    return made


async def test_a_resolved_schema_needs_no_references(call: Client) -> None:
    registered = json.loads((await call("GET", "/subjects/orders/versions/1")).json["schema"])
    assert registered == ORDER
    texts = [
        (await call("GET", "/subjects/orders/versions/1?format=resolved")).json["schema"],
        (await call("GET", "/subjects/orders/versions/1/schema?format=resolved")).text,
        (await call("GET", "/schemas/ids/3?format=resolved")).json["schema"],
        (await call("GET", "/schemas/ids/3/schema?format=resolved")).text,
        (
            await call(
                "POST", "/subjects/orders?format=resolved", json_schema(ORDER, ("money.json", "money"))
            )
        ).json["schema"],
    ]
    guid = (await call("GET", "/schemas/ids/3")).json["guid"]
    texts.append((await call("GET", f"/schemas/guids/{guid}?format=resolved")).json["schema"])
    assert len(set(texts)) == 1
    language = JsonSchema()
    alone = language.parse(texts[0])
    for value, valid in (
        ({"total": {"amount": 1, "unit": "EUR"}, "tax": 0.5}, True),
        ({"total": {"amount": "1"}}, False),
        ({"total": {"amount": 1, "unit": "GBP"}}, False),
        ({"tax": "none"}, False),
    ):
        assert alone.is_valid(value) is valid, value
    together = (await call.registry.registered("orders", 1)).schema
    for one, other in ((alone, together), (together, alone)):
        assert language.compare(one, other, "strict").outcome is Outcome.PROVED


@pytest.mark.parametrize("form", ["serialized", "ignore_extensions", "nonsense", ""])
async def test_a_form_that_a_language_does_not_have_is_the_registered_text(call: Client, form: str) -> None:
    answer = (await call("GET", f"/schemas/ids/3?format={form}")).json
    assert json.loads(answer["schema"]) == ORDER


async def test_the_highest_id_is_told_on_request(call: Client) -> None:
    assert "maxId" not in (await call("GET", "/schemas/ids/1")).json
    assert (await call("GET", "/schemas/ids/1?fetchMaxId=True")).json["maxId"] == 3
    await call("POST", "/subjects/more/versions", json_schema({"title": "more"}))
    assert (await call("GET", "/schemas/ids/1?fetchMaxId=true")).json["maxId"] == 4
    dev = (await call("POST", "/subjects/:.dev:x/versions", json_schema({"title": "dev"}))).json["id"]
    assert (await call("GET", f"/contexts/.dev/schemas/ids/{dev}?fetchMaxId=true")).json["maxId"] == dev
    # Another writer of the same store: the answer is not kept.
    await call.registry.register("beside", {"title": "beside"})
    assert (await call("GET", "/schemas/ids/1?fetchMaxId=true")).json["maxId"] == 5


async def test_the_ids_of_a_guid_in_all_contexts(call: Client) -> None:
    unit = json_schema({"enum": ["EUR", "USD"]})
    await call("POST", "/subjects/:.dev:other/versions", json_schema({}))
    dev = (await call("POST", "/subjects/:.dev:unit/versions", unit)).json
    assert (await call("GET", f"/schemas/guids/{dev['guid']}/ids")).json == [
        {"context": ".", "id": 1},
        {"context": ".dev", "id": dev["id"]},
    ]


async def send(port: int, request: bytes) -> tuple[bytes, dict[str, str], Any]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    head = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)).decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:])}
    body = await asyncio.wait_for(reader.readexactly(int(headers["content-length"])), 10)
    writer.close()
    return head[0].split(" ")[1].encode(), headers, body


@pytest.mark.parametrize("prefix", ["", "/registry"])
async def test_a_body_that_the_server_refuses_is_refused_in_the_form_of_the_api(prefix: str) -> None:
    """Clients parse every error as JSON: one that is too large, and one that does not arrive."""
    limits = HttpLimits(body_size=1_000, body_timeout=0.2)

    async def other(scope: Any, receive: Any, send: Any) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    mounts: list[tuple[str, Any]] = [(prefix, Client().app)]
    if prefix:
        mounts.append(("/other", other))
    async with HttpHost(mounts, port=0, limits=limits) as host:
        port = int(host.url.rpartition(":")[2])
        post = f"POST {prefix}/subjects/a/versions HTTP/1.1\r\nhost: x\r\n".encode()
        for status, request in (
            (413, post + b"content-length: 5000\r\n\r\n"),
            (413, post + b"transfer-encoding: chunked\r\n\r\n5dc\r\n" + b"x" * 1_500 + b"\r\n"),
            (408, post + b"content-length: 10\r\n\r\n{"),
        ):
            code, headers, body = await send(port, request)
            assert int(code) == status
            assert headers["content-type"] == "application/vnd.schemaregistry.v1+json"
            assert json.loads(body)["error_code"] == status
            assert json.loads(body)["message"]
        if prefix:
            code, headers, body = await send(
                port, b"POST /other HTTP/1.1\r\nhost: x\r\ncontent-length: 5000\r\n\r\n"
            )
            assert (code, headers["content-type"]) == (b"413", "text/plain; charset=utf-8")

"""A client of the application without a network, and the languages of the tests."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dimesh.backends.registry.memory import MemoryStore
from dimesh.clock import SystemClock
from dimesh.errors import InvalidSchemaError
from dimesh.registry.engine import SchemaRegistry
from dimesh.registry.rest import Access, RegistryApp
from dimesh.spi.schema import PROVED, ParsedSchema, Problem, SchemaLanguage, Verdict


@dataclass(frozen=True)
class PlainSchema:
    """A schema that allows everything."""

    language: str
    text: str
    canonical: str
    record_name: str | None = None

    @property
    def document(self) -> Any:
        return self.text

    def is_valid(self, value: Any) -> bool:
        return True

    def problems(self, value: Any) -> Sequence[Problem]:
        return ()

    def encode(self, value: Any) -> bytes:
        return json.dumps(value).encode()

    def decode(self, payload: bytes, writer: ParsedSchema | None = None) -> Any:
        return json.loads(payload)


class PlainLanguage:
    """A language for the names of Avro and Protobuf, whose plugins the core does not need: every text but ``!`` is a schema, and
    everything is compatible.
    """

    content_type = "application/octet-stream"
    self_describing = False

    def __init__(self, name: str) -> None:
        self.name = name

    def parse(self, text: str, references: Mapping[str, ParsedSchema] | None = None) -> ParsedSchema:
        if text == "!":
            raise InvalidSchemaError("'!' is no schema")
        try:
            canonical = json.dumps(json.loads(text), sort_keys=True)
        except ValueError:
            canonical = text
        return PlainSchema(self.name, text, canonical)

    def compare(self, writer: ParsedSchema, reader: ParsedSchema, policy: str) -> Verdict:
        return PROVED


def plain_languages(name: str) -> SchemaLanguage:
    return PlainLanguage(name)


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    text: str

    @property
    def json(self) -> Any:
        return json.loads(self.text)

    @property
    def code(self) -> Any:
        return self.json["error_code"]


class Client:
    """Calls an application."""

    def __init__(self, access: Access | None = None, **options: Any) -> None:
        self.registry = SchemaRegistry(MemoryStore(SystemClock()), languages=plain_languages)
        self.app = RegistryApp(self.registry, access, **options)

    async def __call__(
        self,
        method: str,
        path: str,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        root: str = "",
    ) -> Answer:
        raw, _, query = path.partition("?")
        sent = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        pieces = [sent[at : at + 1_000] for at in range(0, len(sent), 1_000)] or [b""]
        messages: list[Any] = []

        async def receive() -> Any:
            piece = pieces.pop(0)
            return {"type": "http.request", "body": piece, "more_body": bool(pieces)}

        async def send(message: Any) -> None:
            messages.append(message)

        scope = {
            "type": "http",
            "method": method,
            "path": root + raw,
            "raw_path": (root + raw).encode(),
            "root_path": root,
            "query_string": query.encode(),
            "headers": [(name.lower().encode(), value.encode()) for name, value in (headers or {}).items()],
        }
        await self.app(scope, receive, send)
        start, end = messages
        return Answer(
            start["status"],
            {name.decode(): value.decode() for name, value in start["headers"]},
            end["body"].decode(),
        )

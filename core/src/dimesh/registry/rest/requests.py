"""A request as the handlers see it: names, queries and the body, read as clients really write them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeVar
from urllib.parse import parse_qsl

from dimesh.errors import PayloadError
from dimesh.events import strictjson
from dimesh.events.names import show
from dimesh.registry.engine import MAX_SUBJECT
from dimesh.registry.rest.failures import INVALID_SCHEMA, INVALID_SUBJECT, INVALID_VERSION, RestError
from dimesh.spi.registry import DEFAULT_CONTEXT, Reference, context_of

T = TypeVar("T")

LATEST: Final = -1
MAX_NUMBER: Final = 2**31 - 1
_FORMATS: Final = {"JSON": "JSON_SCHEMA"}
"""The names on the wire that differ from ours."""


class Request:
    """One request.

    Args:
        names: the names in the path, by the placeholders of the route.
        query: the query string.
        context: the context in the path, such as ``.dev``; None: there is none.
        body: the JSON of the body; None: the body is empty.
    """

    __slots__ = ("_body", "_names", "_query", "context")

    def __init__(self, names: Mapping[str, str], query: bytes, context: str | None, body: Any = None) -> None:
        self._names = names
        self._query = parse_qsl(query.decode("utf-8", "replace"), keep_blank_values=True) if query else []
        self.context = context
        self._body = body

    # -- names in the path -----------------------------------------------------------------------

    def name(self, placeholder: str) -> str:
        """Return a name in the path."""
        return self._names[placeholder]

    @property
    def subject(self) -> str:
        """The subject in the path, with its context.

        Raises:
            RestError: the name cannot be the name of a subject.
        """
        found = self.scope
        if found is None or found == f":{context_of(found)}:":
            raise _no_name(self._names["subject"])
        return found

    @property
    def scope(self) -> str | None:
        """The scope of settings in the path: a subject, ``:.context:``, or None for the global one.

        Raises:
            RestError: the name cannot be the name of a subject.
        """
        name = self._names.get("subject", "")
        found = qualified(name, self.context)
        if name in (".", "..") or (
            found is not None and not (len(found) <= MAX_SUBJECT and found.isprintable())
        ):
            raise _no_name(name)
        return found

    @property
    def version(self) -> int | None:
        """The version in the path; None: the latest one.

        Raises:
            RestError: it is no version.
        """
        text = self._names["version"]
        if text.lower() == "latest" or text == str(LATEST):
            return None
        number = int(text) if text.isascii() and text.isdigit() and len(text) < 12 else 0
        if not 0 < number <= MAX_NUMBER:
            raise RestError(
                INVALID_VERSION,
                f"{show(text)} is not a version: use a number from 1 to {MAX_NUMBER}, or 'latest'",
            )
        return number

    @property
    def schema_id(self) -> int:
        """The id in the path; 0, which no schema has, if it is none."""
        text = self._names["id"]
        return int(text) if text.isascii() and text.isdigit() and len(text) < 12 else 0

    # -- the query -------------------------------------------------------------------------------

    def text(self, name: str) -> str | None:
        """Return the last value of a parameter; None: it is not given."""
        return next((value for key, value in reversed(self._query) if key == name), None)

    def texts(self, name: str) -> list[str]:
        """Return all values of a parameter."""
        return [value for key, value in self._query if key == name]

    def flag(self, name: str) -> bool:
        """Return whether a parameter is true, in any case: Python's client writes ``True``."""
        value = self.text(name)
        return value is not None and value.lower() == "true"

    def page(self, items: Sequence[T]) -> list[T]:
        """Return the part of a list that ``offset`` and ``limit`` ask for."""
        offset, limit = self.window
        return list(items[offset:] if limit is None else items[offset : offset + limit])

    @property
    def window(self) -> tuple[int, int | None]:
        """The offset, and the limit; None: no limit. Clients write -1 for it."""
        offset, limit = self._number("offset", 0), self._number("limit", -1)
        return max(offset, 0), limit if limit >= 0 else None

    def _number(self, name: str, default: int) -> int:
        value = self.text(name) or ""
        if not value:
            return default
        try:
            return int(value) if len(value) < 20 else int("")
        except ValueError:
            raise RestError(400, f"the parameter {name} must be an integer, not {show(value)}") from None

    # -- the body --------------------------------------------------------------------------------

    @property
    def body(self) -> dict[str, Any]:
        """The JSON object of the body; an empty body is an empty object.

        Raises:
            RestError: the body is something else.
        """
        if self._body is not None and not isinstance(self._body, dict):
            raise RestError(400, "the body must be a JSON object")
        return self._body or {}

    @property
    def schema(self) -> str:
        """The text of the schema in the body."""
        text = self.body.get("schema")
        if not isinstance(text, str) or not text:
            raise RestError(INVALID_SCHEMA, "the body needs the member 'schema', the schema as a string")
        return text

    @property
    def format(self) -> str:
        """The language of the schema in the body."""
        name = self.body.get("schemaType") or "AVRO"
        if not isinstance(name, str):
            raise RestError(INVALID_SCHEMA, "'schemaType' must be a string such as 'AVRO'")
        return _FORMATS.get(name.upper(), name.upper())

    def table(self, member: str) -> dict[str, Any]:
        """Return an object in the body, without the members that are null; an absent one is empty."""
        value = self.body.get(member)
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise RestError(INVALID_SCHEMA, f"{member!r} must be an object")
        return {key: item for key, item in value.items() if item is not None}

    def number(self, member: str) -> int | None:
        """Return a version or id in the body; None: none is given. Clients write 0 or -1 for it."""
        value = self.body.get(member)
        if value is None:
            return None
        if not isinstance(value, int) or isinstance(value, bool) or value > MAX_NUMBER:
            raise RestError(INVALID_SCHEMA, f"{member!r} must be a number up to {MAX_NUMBER}")
        return value if value > 0 else None

    @property
    def references(self) -> list[Reference]:
        """The references in the body; version -1 is the latest one."""
        found = self.body.get("references") or []
        if not isinstance(found, list):
            raise RestError(INVALID_SCHEMA, "'references' must be a list")
        return [_reference(one) for one in found]


def _no_name(name: str) -> RestError:
    return RestError(
        INVALID_SUBJECT,
        f"{show(name)} is not a subject name: use 1 to {MAX_SUBJECT:,} printable characters, but neither '.' nor '..'",
    )


def _reference(value: Any) -> Reference:
    if isinstance(value, dict):
        name, subject, version = (value.get(key) for key in ("name", "subject", "version"))
        numbered = isinstance(version, int) and (0 < version <= MAX_NUMBER or version == LATEST)
        if isinstance(name, str) and isinstance(subject, str) and subject and numbered:
            return Reference(name, subject, int(version or 0))
    raise RestError(INVALID_SCHEMA, "a reference needs 'name', 'subject' and 'version', such as 1")


def qualified(name: str, context: str | None) -> str | None:
    """Return a name with its context: a subject, ``:.context:``, or None for the default context without a name.

    A name that states a context keeps it, also in a path that states one.
    """
    if name.startswith(":.:"):
        name, context = name[3:], None
    elif name.startswith(":.") and context_of(name) != DEFAULT_CONTEXT:
        return name
    if context is None or context == DEFAULT_CONTEXT:
        return name or None
    return f":{context}:{name}"


def context_name(name: str) -> str:
    """Return the name of a context, which begins with a dot. ``:.dev:`` is accepted, too."""
    name = name.strip(":") if name.startswith(":") else name
    return name if name.startswith(".") else f".{name}"


def parse_body(body: bytes) -> Any:
    """Return the JSON of a body; None: it is empty.

    Raises:
        RestError: it is not JSON.
    """
    if not body.strip():
        return None
    try:
        return strictjson.loads(body)
    except (PayloadError, json.JSONDecodeError) as error:
        raise RestError(400, f"the body is not JSON: {error}") from None

"""What both engines share: how problems are worded, and what they are given."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from dimesh.registry.jsonschema.drafts import Draft, escape

MASK: Final = "the value (not shown)"
"""The word for a value that a message must not show."""


def explicit(document: Any) -> Any:
    """Return a document that names its draft, since the engine's own default is the newest one."""
    if isinstance(document, Mapping) and "$schema" not in document:
        return {"$schema": f"http://{Draft.DRAFT_7.value}#", **document}
    return document


def refuse(address: str) -> Any:
    """Refuse to fetch a document."""
    raise ValueError(f"a schema may not fetch {address}")


def pointer(path: Iterable[Any]) -> str:
    """Return a path as a JSON Pointer."""
    return "".join(f"/{escape(str(part))}" for part in path)


def short(message: str) -> str:
    """Return at most 300 characters of a message."""
    return message if len(message) <= 300 else message[:300] + "…"


def first_line(error: BaseException) -> str:
    """Return the first line of an error, shortened."""
    return short(str(error).strip().split("\n", 1)[0])

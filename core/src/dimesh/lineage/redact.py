"""What may be kept of what passes through agents and tools: bounded, and never a secret.

Metadata is copied (as bytes, so that later edits by the caller do not show) and later cleaned by the worker.
Of a tool's arguments only the structure is kept: names, types, sizes and hashes. A hash tells equal values
from different ones; it does not hide a value that can be guessed, which is why what looks secret has none.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence, Set
from functools import lru_cache
from hashlib import blake2b
from typing import Any, Final

import msgspec

MASK: Final = "***"
MAX_METADATA: Final = 16_384
"""Most bytes (msgpack) of the metadata of one record."""
MAX_DEPTH: Final = 20
MAX_ITEMS: Final = 2_000
MAX_STRING: Final = 2_000
MAX_KEYS: Final = 50

_SECRET = re.compile(
    r"passw|pwd|secret|token(?!s)|api[_-]?key|access[_-]?key|private[_-]?key|auth(?!or)|cookie|credential"
    r"|bearer|signature|session[_-]?(?:id|key)|\bpin\b|\botp\b|\bssn\b|\bcvv2?\b|card[_-]?(?:number|no\b)",
    re.IGNORECASE,
)


@lru_cache(maxsize=4_096)
def is_secret(key: str) -> bool:
    """Whether a value under that name is likely to be a secret."""
    return _SECRET.search(key) is not None


def _opaque(value: object) -> str:
    # The type's name only: a foreign __str__ or __repr__ may be slow, raise or tell too much.
    return f"<{type(value).__qualname__}>"


_encoder: Final = msgspec.msgpack.Encoder(enc_hook=_opaque)
_ordered: Final = msgspec.msgpack.Encoder(enc_hook=_opaque, order="deterministic")
_EMPTY: Final = _encoder.encode({})


def freeze(metadata: Mapping[str, Any] | None) -> bytes:
    """A copy as bytes that nobody can change. Takes any value; what is over-long is cleaned at once."""
    if not metadata:
        return _EMPTY
    data = _encode(metadata)
    return data if len(data) <= MAX_METADATA else _encode(_bounded(data, clean(metadata)))


def thaw(data: bytes) -> dict[str, Any]:
    """What :func:`freeze` copied: cleaned, with string keys, within :data:`MAX_METADATA`."""
    if data == _EMPTY:
        return {}
    cleaned = clean(_decode(data))
    if not isinstance(cleaned, dict):
        cleaned = {"value": cleaned}
    return _bounded(data, cleaned)


def freeze_arguments(arguments: Any) -> tuple[bytes, bool]:
    """Arguments or results of a tool as bytes, and whether they are the summary already (large ones are, so
    that the queue stays small).
    """
    data = _encode(arguments)
    if len(data) <= MAX_METADATA:
        return data, False
    return _encode(summary(arguments)), True


def thaw_arguments(frozen: tuple[bytes, bool]) -> dict[str, Any]:
    """The summary of what :func:`freeze_arguments` copied."""
    value = _decode(frozen[0])
    return value if frozen[1] and isinstance(value, dict) else summary(value)


def summary(arguments: Any) -> dict[str, Any]:
    """The structure of a tool's arguments or result, without its values.

    ``{"size": bytes, "hash": of all, "keys": {name: {"type", "size", "hash"}}, "more": further names}``;
    secret-looking names have ``"redacted": true`` and neither size nor hash.
    """
    if arguments is None:
        return {}
    named = arguments if isinstance(arguments, Mapping) else {"value": arguments}
    keys: dict[str, Any] = {}
    kept: list[object] = []
    size = 0
    for number, (key, value) in enumerate(named.items()):
        name = _text(key, 100)
        if number >= MAX_ITEMS:
            break
        if is_secret(name):
            entry: dict[str, Any] = {"type": _kind(value), "redacted": True}
        else:
            length, digest = _measure(value)
            size += length
            kept.append((name, digest))
            entry = {"type": _kind(value), "size": length, "hash": digest}
        if number < MAX_KEYS:
            keys[name] = entry
    result = {"size": size, "hash": _digest(sorted(kept, key=repr)), "keys": keys}
    if len(named) > MAX_KEYS:
        result["more"] = len(named) - MAX_KEYS
    return result


def clean(value: Any) -> Any:
    """A copy of plain JSON values: secrets masked, strings, depth and number of items cut, NaN and foreign
    objects as words.
    """
    return _clean(value, 0, [MAX_ITEMS])


def _clean(value: Any, depth: int, budget: list[int]) -> Any:
    budget[0] -= 1
    if value is None or value is True or value is False:
        return value
    if isinstance(value, str):
        return _text(value, MAX_STRING)
    if isinstance(value, int):
        return int(value) if -(2**63) <= value < 2**63 else _big(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else repr(float(value))
    if isinstance(value, (bytes, bytearray, memoryview)):
        return f"<{len(value)} bytes>"
    if depth >= MAX_DEPTH:
        return "…"
    if isinstance(value, Mapping):
        result: dict[str, Any] = {}
        for key, item in value.items():
            if budget[0] <= 0:
                result["…"] = f"{len(value) - len(result)} more"
                break
            name = _text(key, 200)
            result[name] = MASK if is_secret(name) and item is not None else _clean(item, depth + 1, budget)
        return result
    if isinstance(value, (Sequence, Set)):
        items: list[Any] = []
        for item in value:
            if budget[0] <= 0:
                items.append(f"… {len(value) - len(items)} more")
                break
            items.append(_clean(item, depth + 1, budget))
        return items
    try:
        return _text(msgspec.to_builtins(value), MAX_STRING)  # dates, UUID, Decimal, enums
    except (TypeError, ValueError, RecursionError):
        return _opaque(value)


def _text(value: object, limit: int) -> str:
    text = (
        value if isinstance(value, str) else str(value) if isinstance(value, (int, float)) else _opaque(value)
    )
    if not text.isascii():
        text = text.encode("utf-8", "replace").decode("utf-8")
    return text if len(text) <= limit else f"{text[:limit]}… ({len(text)} characters)"


def _big(value: int) -> str:
    # Not str(): that takes quadratic time, and Python refuses beyond 4,300 digits.
    return str(value) if value.bit_length() <= 4_096 else f"<integer of {value.bit_length()} bits>"


def _bounded(data: bytes, cleaned: dict[str, Any]) -> dict[str, Any]:
    if len(data) <= MAX_METADATA or len(_encode(cleaned)) <= MAX_METADATA:
        return cleaned
    return {"truncated": True, "size": len(data), "keys": [key[:100] for key in list(cleaned)[:MAX_KEYS]]}


def _encode(value: Any) -> bytes:
    try:
        return _encoder.encode(value)
    except (TypeError, ValueError, OverflowError, RecursionError):
        # Integers beyond 64 bits, lone surrogates, cycles: rare, so only they pay for the walk.
        return _encoder.encode(clean(value))


def _decode(data: bytes) -> Any:
    try:
        return msgspec.msgpack.decode(data, strict=False)
    except (msgspec.MsgspecError, RecursionError, ValueError, TypeError):
        return {"unreadable": True, "size": len(data)}


def _measure(value: Any) -> tuple[int, str]:
    """Size in bytes and hash of a value. Nested secrets are masked before hashing; in what is too large for
    that walk they are one part among many, and cannot be guessed from the hash.
    """
    try:
        data = _ordered.encode(value)
    except (TypeError, ValueError, OverflowError, RecursionError):
        data = _ordered.encode(clean(value))
    if len(data) > MAX_METADATA or isinstance(value, (str, bytes)):
        return len(data), blake2b(data, digest_size=8).hexdigest()
    return len(data), _digest(clean(value))


def _digest(value: object) -> str:
    return blake2b(_ordered.encode(value), digest_size=8).hexdigest()


def _kind(value: object) -> str:
    if isinstance(value, Mapping):
        return "object"
    if isinstance(value, str):
        return "string"
    if isinstance(value, (Sequence, Set)) and not isinstance(value, (bytes, bytearray)):
        return "array"
    return "null" if value is None else type(value).__name__

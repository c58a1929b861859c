"""Redaction: what may be stored of the data of agents and tools. It is bounded and contains no secrets.

Metadata is copied as bytes, so that later changes by the caller have no effect, and is cleaned when it is indexed. Of the
arguments of a tool, only the structure is stored: names, types, sizes and hashes. A hash shows whether two values are equal,
but it does not protect a value that can be guessed, so values whose names look secret have none.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence, Set
from hashlib import blake2b
from typing import Any, Final

import msgspec

from dimesh.secrets import MASK, is_secret

MAX_METADATA: Final = 16_384
"""The maximum size of the metadata of one record in bytes (msgpack)."""
MAX_DEPTH: Final = 20
MAX_ITEMS: Final = 2_000
MAX_STRING: Final = 2_000
MAX_KEYS: Final = 50


def _opaque(value: object) -> str:
    # The type's name only: a foreign __str__ or __repr__ may be slow, raise an error, or reveal too much.
    return f"<{type(value).__qualname__}>"


_encoder: Final = msgspec.msgpack.Encoder(enc_hook=_opaque)
_ordered: Final = msgspec.msgpack.Encoder(enc_hook=_opaque, order="deterministic")
_EMPTY: Final = _encoder.encode({})


def freeze(metadata: Mapping[str, Any] | None) -> bytes:
    """Copy metadata as bytes. Any value is accepted; oversized metadata is cleaned at once."""
    if not metadata:
        return _EMPTY
    data = _encode(metadata)
    return data if len(data) <= MAX_METADATA else _encode(_bounded(data, clean(metadata)))


def thaw(data: bytes) -> dict[str, Any]:
    """Return what :func:`freeze` copied: cleaned, with string keys, within :data:`MAX_METADATA`."""
    if data == _EMPTY:
        return {}
    cleaned = clean(_decode(data))
    if not isinstance(cleaned, dict):
        cleaned = {"value": cleaned}
    return _bounded(data, cleaned)


def freeze_arguments(arguments: Any) -> tuple[bytes, bool]:
    """Copy the arguments or the result of a tool as bytes, and return whether they are a summary already. Large ones are, so
    that the queue stays small.
    """
    data = _encode(arguments)
    if len(data) <= MAX_METADATA:
        return data, False
    return _encode(summary(arguments)), True


def thaw_arguments(frozen: tuple[bytes, bool]) -> dict[str, Any]:
    """Return the summary of what :func:`freeze_arguments` copied."""
    value = _decode(frozen[0])
    return value if frozen[1] and isinstance(value, dict) else summary(value)


def summary(arguments: Any) -> dict[str, Any]:
    """Return the structure of a tool's arguments or result, without the values.

    ``{"size": bytes, "hash": hash of all, "keys": {name: {"type", "size", "hash"}}, "more": number of further names}``.
    An entry whose name looks secret has ``"redacted": true`` and neither size nor hash.
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
    """Return a copy that consists of plain JSON values: secrets are masked, strings, depth and number of items are limited, and
    NaN and foreign objects become text.
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
    # str() takes quadratic time, and Python refuses it beyond 4,300 digits.
    return str(value) if value.bit_length() <= 4_096 else f"<integer of {value.bit_length()} bits>"


def _bounded(data: bytes, cleaned: dict[str, Any]) -> dict[str, Any]:
    if len(data) <= MAX_METADATA or len(_encode(cleaned)) <= MAX_METADATA:
        return cleaned
    return {"truncated": True, "size": len(data), "keys": [key[:100] for key in list(cleaned)[:MAX_KEYS]]}


def _encode(value: Any) -> bytes:
    try:
        return _encoder.encode(value)
    except (TypeError, ValueError, OverflowError, RecursionError):
        # Integers beyond 64 bits, lone surrogates and cycles are rare, so only they cost a walk.
        return _encoder.encode(clean(value))


def _decode(data: bytes) -> Any:
    try:
        return msgspec.msgpack.decode(data, strict=False)
    except (msgspec.MsgspecError, RecursionError, ValueError, TypeError):
        return {"unreadable": True, "size": len(data)}


def _measure(value: Any) -> tuple[int, str]:
    """Return the size of a value in bytes, and its hash. Nested secrets are masked before hashing. A value that is too large for
    that contains so much else that the hash does not help to guess a secret in it.
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

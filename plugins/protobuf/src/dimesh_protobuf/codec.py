"""Turns values into messages of Protobuf's runtime, and back.

The runtime accepts wrong values, such as bytes for text, and writes them. So a function that was compiled for the message type
checks an ordinary value first, and all others are checked with care. Reading is compiled, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from google.protobuf.message import DecodeError

from dimesh_protobuf.checking import Check
from dimesh_protobuf.compiling import Compiler, reachable
from dimesh_protobuf.nodes import RANGES, Field, Message
from dimesh_protobuf.pool import Pool
from dimesh_protobuf.special import fill_json, fill_list, fill_struct, parts_of_duration, parts_of_time


class Codec:
    """Encodes, decodes and checks the values of one message type."""

    def __init__(self, message: Message, pool: Pool) -> None:
        self._message = message
        self._pool = pool
        self._maps = any(field.kind == "map" for one in reachable(message) for field in one.fields)
        self._class = pool.message_class(message.name)
        self._write = self._class.SerializeToString
        compiler = Compiler(pool, self.build)
        self._check = compiler.check(message)
        self._make = compiler.make(message)
        self._read = compiler.read(message)

    def is_valid(self, value: Any) -> bool:
        """Return whether a value is one of the message type."""
        return self._is_ordinary(value) or not Check(1).run(self._message, value)

    def _is_ordinary(self, value: Any) -> bool:
        try:
            return self._check(value, 0) and self._make(value) is not None
        except (TypeError, ValueError):  # a key or a value that cannot be hashed; a lone surrogate
            return False

    def encode(self, value: Any) -> bytes | None:
        """Return the payload of a value; None: the value is not valid."""
        try:
            if self._check(value, 0):
                return self._serialized(self._make(value))
        except (TypeError, ValueError):
            pass
        if Check(1).run(self._message, value):
            return None
        return self._serialized(self.build(self._message, value))

    def _serialized(self, message: Any) -> bytes:
        payload: bytes = self._write(message, deterministic=True) if self._maps else self._write(message)
        return payload

    def parse(self, payload: bytes) -> Any:
        """Return the message of a payload.

        Raises:
            ValueError: the payload is damaged, or lacks a required field.
        """
        try:
            message = self._class.FromString(payload)
        except DecodeError as error:
            raise ValueError(_reason(error)) from None
        if self._message.demanding and not self._class.IsInitialized(message):
            # The runtime's own list of what is missing crashes on maps of messages.
            missing = Check(1).run(self._message, self._read(message))
            raise ValueError(str(missing[0]) if missing else "a required field is missing")
        return message

    def decode(self, payload: bytes) -> Any:
        """Return the value of a payload.

        Raises:
            ValueError: the payload is damaged, or lacks a required field.
        """
        return self._read(self.parse(payload))

    # -- with care -------------------------------------------------------------------------------

    def build(self, node: Message, value: Any) -> Any:
        """Return a message of a value that was checked."""
        message = self._pool.message_class(node.name)()
        self._fill(node, message, value)
        return message

    def _fill(self, node: Message, message: Any, value: Any) -> None:
        kind = node.special
        if isinstance(value, (datetime, timedelta)):
            parts = parts_of_time(value) if isinstance(value, datetime) else parts_of_duration(value)
            message.seconds, message.nanos = parts
        elif kind == "value":
            fill_json(message, value)
        elif kind == "struct":
            fill_struct(message, value)
        elif kind == "list":
            fill_list(message, value)
        elif kind == "wrapper":
            message.value = _scalar(node.fields[0], value)
        else:
            for name, item in value.items():
                self._set(node.by_name[name], message, item)

    def _set(self, field: Field, message: Any, value: Any) -> None:
        if field.kind == "map":
            self._set_map(field, getattr(message, field.name), value)
        elif field.message is not None and field.repeated:
            items = getattr(message, field.name)
            for item in value:
                self._fill(field.message, items.add(), item)
        elif field.message is not None:
            inner = getattr(message, field.name)
            inner.SetInParent()
            self._fill(field.message, inner, value)
        elif field.repeated:
            getattr(message, field.name).extend([_scalar(field, item) for item in value])
        else:
            setattr(message, field.name, _scalar(field, value))

    def _set_map(self, field: Field, items: Any, value: Mapping[Any, Any]) -> None:
        key, of = field.entry
        for name, item in value.items():
            if of.message is not None:
                self._fill(of.message, items[_scalar(key, name)], item)
            else:
                items[_scalar(key, name)] = _scalar(of, item)


def _scalar(field: Field, value: Any) -> Any:
    """Return a value that was checked, of exactly the type that the runtime expects."""
    if field.enum is not None:
        return field.enum.numbers[value] if isinstance(value, str) else int(value)
    if field.kind in RANGES:
        return int(value)
    if field.kind in ("float", "double"):
        return float(value)
    if field.kind == "string":
        return str.__str__(value)
    return bytes(value) if field.kind == "bytes" else value


def _reason(error: Exception) -> str:
    return str(error).partition(": ")[2] or str(error)

"""Writes payloads in Python: for the values and schemas that fastavro does not write as dimesh needs it."""

from __future__ import annotations

from struct import pack
from typing import Any

from dimesh_avro.checking import Check
from dimesh_avro.defaults import build_default
from dimesh_avro.logical import to_raw
from dimesh_avro.nodes import Node


class Writer:
    """Writes one value, which was checked."""

    def __init__(self) -> None:
        self._out = bytearray()
        self._check = Check()

    def run(self, node: Node, value: Any) -> bytes:
        """Return the payload."""
        if node.kind == "bytes":  # at the top, bytes are the payload: Confluent's serializers write no length
            return bytes(to_raw(node, value))
        self._write(node, value, 0)
        return bytes(self._out)

    def length(self, count: int) -> bytes:
        """Return a length as it stands before bytes."""
        self._long(count)
        return bytes(self._out)

    def _long(self, number: int) -> None:
        rest = (number << 1) ^ (number >> 63)
        while rest > 0x7F:
            self._out.append((rest & 0x7F) | 0x80)
            rest >>= 7
        self._out.append(rest)

    def _write(self, node: Node, value: Any, depth: int) -> None:
        kind = node.kind
        if node.logical is not None:
            value = to_raw(node, value)
        if kind == "union":
            branch, value = self._check.choose(node, value, depth)
            self._long(node.branches.index(branch))
            self._write(branch, value, depth)
        elif kind == "record":
            for field in node.fields:
                if field.name in value:
                    item = value[field.name]
                else:
                    item = build_default(field.node, field.default)
                self._write(field.node, item, depth + 1)
        elif kind in ("array", "map"):
            if value:
                self._long(len(value))
            for item in value:
                if kind == "map":
                    self._bytes(item.encode())
                    item = value[item]
                self._write(node.of, item, depth + 1)
            self._long(0)
        elif kind in ("int", "long"):
            self._long(value)
        elif kind == "enum":
            self._long(node.positions[value])
        elif kind == "string":
            self._bytes(value.encode())
        elif kind == "bytes":
            self._bytes(value)
        elif kind == "fixed":
            self._out += value
        elif kind == "boolean":
            self._out.append(value)
        elif kind != "null":
            self._out += pack("<f" if kind == "float" else "<d", value)

    def _bytes(self, data: bytes) -> None:
        self._long(len(data))
        self._out += data

"""Random schemas, random edits of them, random values, and what it means that a value was read."""

from __future__ import annotations

import copy
import random
from base64 import b64encode
from dataclasses import dataclass, field
from typing import Any

from dimesh_protobuf.nodes import RANGES, Field, Message

SCALARS = (*RANGES, "bool", "string", "bytes", "float", "double")
KEYS = ("int32", "sint64", "fixed32", "bool", "string")
NUMBERS = (1, 2, 3, 7, 15, 16, 200, 18_999, 20_000, 2**29 - 1)


@dataclass
class F:
    name: str
    number: int
    type: str
    label: str = ""
    oneof: str = ""
    key: str = ""
    packed: bool | None = None


@dataclass
class Model:
    """A schema: messages M0, M1 …, some of them in M0, and enums E0, E1 …."""

    proto3: bool
    messages: dict[str, list[F]] = field(default_factory=dict)
    enums: dict[str, dict[str, int]] = field(default_factory=dict)
    inner: set[str] = field(default_factory=set)

    def text(self) -> str:
        lines = [f'syntax = "{"proto3" if self.proto3 else "proto2"}";', "package shop.v1;"]
        for name, fields in self.messages.items():
            if name not in self.inner:
                lines.append(self._message(name, fields))
        for name, values in self.enums.items():
            lines.append(f"enum {name} {{ {' '.join(f'{k} = {v};' for k, v in values.items())} }}")
        return "\n".join(lines)

    def _message(self, name: str, fields: list[F]) -> str:
        parts, oneofs = [], {}
        for one in fields:
            kind = f"map<{one.key}, {one.type}>" if one.key else one.type
            options = "" if one.packed is None else f" [packed = {str(one.packed).lower()}]"
            line = f"{one.label} {kind} {one.name} = {one.number}{options};"
            if one.oneof:
                oneofs.setdefault(one.oneof, []).append(line)
            else:
                parts.append(line)
        parts += [f"oneof {oneof} {{ {' '.join(lines)} }}" for oneof, lines in oneofs.items()]
        if name == "M0":
            parts += [
                self._message(other, self.messages[other]) for other in self.messages if other in self.inner
            ]
        return f"message {name} {{ {' '.join(parts)} }}"


class Maker:
    """Makes one random schema."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.model = Model(rng.random() < 0.6)

    def make(self) -> Model:
        rng, model = self.rng, self.model
        for n in range(rng.randint(0, 2)):
            names = rng.sample("ABCD", rng.randint(1, 4))
            numbers = rng.sample((1, 2, 3, 5, -1, 2**31 - 1), len(names) - 1)
            model.enums[f"E{n}"] = {f"{name}{n}": k for name, k in zip(names, [0, *numbers], strict=True)}
        for n in range(rng.randint(1, 3)):
            model.messages[f"M{n}"] = []
            if n and rng.random() < 0.4:
                model.inner.add(f"M{n}")
        for name, fields in model.messages.items():
            for number in rng.sample(NUMBERS, rng.randint(0 if name != "M0" else 1, 5)):
                fields.append(self.field(number))
        return model

    def kind(self) -> str:
        named = [*(f"M0.{m}" if m in self.model.inner else m for m in self.model.messages), *self.model.enums]
        return self.rng.choice(named) if named and self.rng.random() < 0.4 else self.rng.choice(SCALARS)

    def field(self, number: int) -> F:
        rng = self.rng
        made = F(f"f{number}", number, self.kind())
        roll = rng.random()
        if roll < 0.15:
            made.key = rng.choice(KEYS)
        elif roll < 0.3:
            made.oneof = rng.choice(("o", "p"))
        else:
            self.label(made)
        return made

    def label(self, made: F) -> None:
        rng = self.rng
        made.key, made.oneof, made.packed = "", "", None
        made.label = rng.choice(
            ("", "", "optional", "repeated") if self.model.proto3 else ("optional", "repeated")
        )
        if not self.model.proto3 and made.type in SCALARS and rng.random() < 0.2:
            made.label = "required"
        if made.label == "repeated" and made.type in SCALARS[:-4] and rng.random() < 0.3:
            made.packed = rng.random() < 0.5


def edited(rng: random.Random, model: Model) -> Model:
    """Return a copy with a few edits, as people make them and as nobody makes them."""
    found = copy.deepcopy(model)
    maker = Maker(rng)
    maker.model = found
    for _ in range(rng.randint(0, 3)):
        fields = found.messages[rng.choice(list(found.messages))]
        roll = rng.random()
        if roll < 0.2 or not fields:
            number = rng.choice(NUMBERS)
            if number not in {one.number for one in fields}:
                fields.append(maker.field(number))
        elif roll < 0.3:
            fields.pop(rng.randrange(len(fields)))
        elif roll < 0.35 and found.enums:
            values = found.enums[rng.choice(list(found.enums))]
            if len(values) > 1:
                values.popitem()
        elif roll < 0.4:
            rng.shuffle(fields)
        else:
            one = rng.choice(fields)
            if roll < 0.5:
                one.name = f"renamed{one.number}"
            elif roll < 0.75:
                one.type, one.packed = maker.kind(), None
            elif roll < 0.85:
                maker.label(one)
            else:
                one.label, one.key, one.oneof, one.packed = "", "", rng.choice(("o", "p")), None
    return found


def value_of(rng: random.Random, node: Message, depth: int = 0) -> Any:
    """Return a random value."""
    found = {}
    chosen = {name: rng.choice((*members, None)) for name, members in node.oneofs.items()}
    for one in node.fields:
        if one.oneof and chosen[one.oneof] is not one:
            continue
        if one.required or rng.random() < (0.7 if depth < 5 else 0 if one.message else 0.3):
            found[one.name] = _field(rng, one, depth)
    return found


def _field(rng: random.Random, one: Field, depth: int) -> Any:
    size = rng.randint(0, 3 if depth < 3 else 1)
    if one.kind == "map":
        key, of = one.entry
        return {_scalar(rng, key): _item(rng, of, depth) for _ in range(size)}
    return [_item(rng, one, depth) for _ in range(size)] if one.repeated else _item(rng, one, depth)


def _item(rng: random.Random, one: Field, depth: int) -> Any:
    return value_of(rng, one.message, depth + 1) if one.message is not None else _scalar(rng, one)


def _scalar(rng: random.Random, one: Field) -> Any:
    kind = one.kind
    if kind == "enum":
        open_ = [99, -5] if not one.of.closed else []
        return rng.choice([*one.of.numbers, *open_])
    if kind in RANGES:
        low, high = RANGES[kind]
        return rng.choice((0, 1, low, high, rng.randint(low, high), rng.randint(0, 1000)))
    return {
        "bool": lambda: rng.random() < 0.5,
        "float": lambda: rng.choice((0.0, -1.5, 0.25, float("inf"))),
        "double": lambda: rng.choice((0.0, 1e300, 0.1, float("-inf"))),
        "bytes": lambda: rng.randbytes(rng.randint(0, 5)),
        "string": lambda: rng.choice(("", "a", "ключ🙂", "x" * 100)),
    }[kind]()


def json_value(node: Message, value: dict[str, Any]) -> dict[str, Any]:
    """Return a value as Protobuf's JSON has it."""
    found = {}
    for name, item in value.items():
        one = node.by_name[name]
        if one.kind == "map":
            key, of = one.entry
            found[name] = {
                str(k).lower() if key.kind == "bool" else str(k): _json(of, v) for k, v in item.items()
            }
        else:
            found[name] = [_json(one, x) for x in item] if one.repeated else _json(one, item)
    return found


def _json(one: Field, value: Any) -> Any:
    if one.message is not None:
        return json_value(one.message, value)
    if isinstance(value, bytes):
        return b64encode(value).decode()
    return (
        {float("inf"): "Infinity", float("-inf"): "-Infinity"}.get(value, value)
        if isinstance(value, float)
        else value
    )


def has_meaning(writer: Message, reader: Message, written: dict[str, Any], read: dict[str, Any]) -> bool:
    """Return whether a value that was read has the meaning of the one that was written, in the fields that both types have.

    What a field of no presence does not state is its default.
    """
    for one in writer.fields:
        other = reader.by_number.get(one.number)
        if other is not None and _meaning(one, other, written) != _meaning(other, one, read, one):
            return False
    return True


def _meaning(one: Field, other: Field, value: dict[str, Any], writer: Field | None = None) -> Any:
    item = value.get(one.name)
    if one.kind == "map":
        key, of = one.entry
        if other.kind != "map":
            return [None] * len(item or {})
        return sorted(
            (repr(_plain(key, k)), repr(_same(of, other.entry[1], v, writer is not None)))
            for k, v in (item or {}).items()
        )
    items = list(item or []) if one.repeated else [] if item is None else [item]
    found = [_same(one, other, x, writer is not None) for x in items]
    if not (one.presence or one.repeated) or not (other.presence or other.repeated):
        found = [x for x in found if x not in (0, b"")] if len(found) == 1 else found
    return found


def _same(one: Field, other: Field, value: Any, reads: bool) -> Any:
    """Return what a single value means; of messages, only the fields that both types have count."""
    if one.message is None:
        return _plain(one, value)
    if other.message is None:
        return value
    writer, reader = (other.message, one.message) if reads else (one.message, other.message)
    found = {}
    for field_ in one.message.fields:
        pair = other.message.by_number.get(field_.number)
        if pair is not None:
            found[field_.number] = _meaning(
                field_, pair, value, writer.by_number[field_.number] if reads else None
            )
    assert reader is not None
    return found


def _plain(one: Field, value: Any) -> Any:
    if one.enum is not None:
        return one.enum.numbers.get(value, value)
    if isinstance(value, str):
        return value.encode()
    return int(value) if isinstance(value, bool) else value

"""Turns values into messages of Protobuf's runtime, and back.

The runtime accepts wrong values, such as bytes for text, and writes them. So a function that was compiled for the message type
checks an ordinary value first, and all others are checked with care. Reading is compiled, too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from keyword import iskeyword
from typing import Any, Final

from google.protobuf.message import DecodeError

from dimesh_protobuf.checking import Check
from dimesh_protobuf.limits import MAX_DEPTH
from dimesh_protobuf.nodes import RANGES, Field, Message
from dimesh_protobuf.pool import Pool
from dimesh_protobuf.special import READ, fill_json, fill_list, fill_struct, parts_of_duration, parts_of_time


class Codec:
    """Encodes, decodes and checks the values of one message type."""

    def __init__(self, message: Message, pool: Pool) -> None:
        self._message = message
        self._pool = pool
        reachable = _reachable(message)
        self._plain = not any(one.special for one in reachable)
        self._maps = any(field.kind == "map" for one in reachable for field in one.fields)
        self._class = pool.message_class(message.name)
        self._write = self._class.SerializeToString
        compiler = _Compiler(pool)
        self._check = compiler.check(message)
        self._read = compiler.read(message)

    def is_valid(self, value: Any) -> bool:
        """Return whether a value is one of the message type."""
        return self._is_ordinary(value) or not Check(1).run(self._message, value)

    def _is_ordinary(self, value: Any) -> bool:
        try:
            return self._check(value, 0) and self._encodable(value)
        except (TypeError, ValueError):
            return False

    def _encodable(self, value: Any) -> bool:
        self._make(value)
        return True

    def _make(self, value: Any) -> Any:
        return self._class(**value) if self._plain else self.build(self._message, value)

    def encode(self, value: Any) -> bytes | None:
        """Return the payload of a value; None: the value is not valid."""
        try:
            if self._check(value, 0):
                return self._serialized(self._make(value))
        except (TypeError, ValueError):  # a key or a value that cannot be hashed; a lone surrogate
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


def _reachable(root: Message) -> list[Message]:
    found = {id(root): root}
    waiting = [root]
    while waiting:
        for field in waiting.pop().fields:
            if field.inner is not None and id(field.inner) not in found:
                found[id(field.inner)] = field.inner
                waiting.append(field.inner)
    return list(found.values())


class _Missing:
    pass


_MISSING: Final = _Missing()


class _Compiler:
    """Writes the source of functions. Names of the schema are used as literals and attributes only: letters, digits and '_'."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._names: dict[str, Any] = {
            "MISSING": _MISSING, "datetime": datetime, "timedelta": timedelta, "text": _text, "special": _is_special,
        }  # fmt: skip
        self._functions: dict[tuple[str, int], str] = {}
        self._waiting: list[tuple[str, Message, str]] = []
        self._count = 0

    def check(self, root: Message) -> Callable[[Any, int], bool]:
        """Return a function that returns whether a value at a depth is an ordinary one of a message type."""
        return self._compiled("check", root)

    def read(self, root: Message) -> Callable[[Any], Any]:
        """Return a function that returns the value of a message of a type."""
        return self._compiled("read", root)

    def _compiled(self, kind: str, root: Message) -> Callable[..., Any]:
        name = self._function(kind, root)
        while self._waiting:
            made, message, label = self._waiting.pop()
            lines = self._check_lines(message) if made == "check" else self._read_lines(message)
            source = "\n".join((f"def {label}{lines[0]}", *(f"    {line}" for line in lines[1:])))
            exec(compile(source, f"<protobuf {made}>", "exec"), self._names)  # noqa: S102
        found: Callable[..., Any] = self._names[name]
        return found

    def _new(self, prefix: str, value: Any = None) -> str:
        self._count += 1
        name = f"{prefix}{self._count}"
        if value is not None:
            self._names[name] = value
        return name

    def _function(self, kind: str, message: Message) -> str:
        """Return the name of the function for a message type, which is compiled later: types may contain themselves."""
        key = (kind, id(message))
        if key not in self._functions:
            if message.special and kind == "read":
                self._functions[key] = self._new("special_read", READ[message.special])
            else:
                self._functions[key] = self._new(kind)
                self._waiting.append((kind, message, self._functions[key]))
        return self._functions[key]

    # -- checks ----------------------------------------------------------------------------------

    def _check_lines(self, message: Message) -> list[str]:
        lines = ["(v, d):", f"if d > {MAX_DEPTH}: return False"]
        if message.special:
            node = self._new("node", message)
            return [*lines, f"return special({node}, v, d)"]
        lines += ["if type(v) is not dict: return False", "n = 0"]
        counters = {name: self._new("o") for name in message.oneofs}
        lines += [f"{counter} = 0" for counter in counters.values()]
        for field in message.fields:
            lines.append(f"x = v.get({field.name!r}, MISSING)")
            body = ["n += 1"]
            if field.oneof:
                counter = counters[field.oneof]
                body += [f"{counter} += 1", f"if {counter} > 1: return False"]
            body += self._field_lines(field)
            lines += ["if x is not MISSING:", *(f"    {line}" for line in body)]
            if field.required:
                lines.append("else: return False")
        return [*lines, "return n == len(v)"]

    def _field_lines(self, field: Field) -> list[str]:
        if field.kind == "map":
            key, of = field.entry
            return [
                f"if type(x) is not dict or (x and d >= {MAX_DEPTH}): return False",
                "for k, y in x.items():",
                f"    if {self._fails(key, 'k', 1)} or {self._fails(of, 'y', 2)}: return False",
            ]
        if field.repeated:
            return [
                "if type(x) is not list: return False",
                "for y in x:",
                f"    if {self._fails(field, 'y', 1)}: return False",
            ]
        return [f"if {self._fails(field, 'x', 1)}: return False"]

    def _fails(self, field: Field, v: str, deeper: int) -> str:
        """Return the condition under which a value is not an ordinary one."""
        kind = field.kind
        if field.message is not None:
            return f"not {self._function('check', field.message)}({v}, d + {deeper})"
        if kind in RANGES:
            low, high = RANGES[kind]
            return f"type({v}) is not int or not {low} <= {v} <= {high}"
        if kind == "double":
            return f"type({v}) is not float"
        if kind == "float":
            return f"type({v}) is not float or not -3.4e38 <= {v} <= 3.4e38"
        if kind == "enum":
            return f"type({v}) is not str or {v} not in {self._new('numbers', field.of.numbers)}"
        return f"type({v}) is not {({'bool': 'bool', 'string': 'str', 'bytes': 'bytes'})[kind]}"

    # -- reading ---------------------------------------------------------------------------------

    def _read_lines(self, message: Message) -> list[str]:
        lines = ["(m):", "f = {}"]
        has = ""
        for field in message.fields:
            line = f"f[{field.name!r}] = {self._value(field)}"
            if field.presence:
                has = has or self._new("has", self._pool.message_class(message.name).HasField)
                line = f"if {has}(m, {field.name!r}): {line}"
            lines.append(line)
        return [*lines, "return f"]

    def _value(self, field: Field) -> str:
        name = field.name
        v = f"getattr(m, {name!r})" if iskeyword(name) or name.startswith("__") else f"m.{name}"
        if field.kind == "map":
            key, of = field.entry
            k, x = self._converted(key, "k"), self._converted(of, "x")
            if (k, x) == ("k", "x"):
                return f"dict(sorted({v}.items()))"
            return f"{{{k}: {x} for k, x in sorted({v}.items())}}"
        if field.repeated:
            x = self._converted(field, "x")
            return f"list({v})" if x == "x" else f"[{x} for x in {v}]"
        return self._converted(field, v)

    def _converted(self, field: Field, v: str) -> str:
        if field.message is not None:
            return f"{self._function('read', field.message)}({v})"
        if field.enum is not None:
            n = self._new("n")
            return f"{self._new('names', field.enum.names)}.get({n} := {v}, {n})"
        return f"text({v})" if field.kind == "string" and field.lenient else v


def _text(value: Any) -> str:
    """Return text; of proto2, the runtime gives bytes for what is no UTF-8."""
    if not isinstance(value, str):
        raise ValueError("a text is not valid UTF-8")
    return value


def _is_special(node: Message, value: Any, depth: int) -> bool:
    return not Check(1).run(node, value, depth)

"""Compiles functions for a message type: to check an ordinary value, to make a message of it, and to read a message.

Names of the schema are used as literals and attributes only: they consist of letters, digits and '_'.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from keyword import iskeyword
from threading import RLock
from typing import Any, ClassVar, Final

from dimesh_protobuf.checking import Check
from dimesh_protobuf.limits import MAX_DEPTH
from dimesh_protobuf.nodes import RANGES, Field, Message
from dimesh_protobuf.pool import Pool
from dimesh_protobuf.special import READ, parts_of_time


def reachable(root: Message) -> list[Message]:
    """Return a message type and all those that its values may contain."""
    found = {id(root): root}
    waiting = [root]
    while waiting:
        for field in waiting.pop().fields:
            if field.inner is not None and id(field.inner) not in found:
                found[id(field.inner)] = field.inner
                waiting.append(field.inner)
    return list(found.values())


def _formed(root: Message) -> set[int]:
    """Return the ids of the message types whose values hold, or are, those of a well-known type with a form of its own."""
    nodes = reachable(root)
    holders: dict[int, list[Message]] = {}
    for node in nodes:
        for field in node.fields:
            if field.inner is not None:
                holders.setdefault(id(field.inner), []).append(node)
    waiting = [node for node in nodes if node.special]
    found = {id(node) for node in waiting}
    while waiting:
        for holder in holders.get(id(waiting.pop()), ()):
            if id(holder) not in found:
                found.add(id(holder))
                waiting.append(holder)
    return found


class _Missing:
    pass


_MISSING: Final = _Missing()


class Compiler:
    """Compiles the functions of one message type.

    Args:
        pool: the message classes.
        build: makes a message of any value that was checked, with care.
    """

    def __init__(self, pool: Pool, build: Callable[[Message, Any], Any]) -> None:
        self._pool = pool
        self._build = build
        self._names: dict[str, Any] = {"MISSING": _MISSING, "text": _text, "special": _is_special}
        self._functions: dict[tuple[str, int], str] = {}
        self._formed: set[int] = set()
        self._count = 0
        self._lock = RLock()

    def check(self, root: Message) -> Callable[[Any, int], bool]:
        """Return a function that returns whether a value at a depth is an ordinary one of a message type."""
        return self._compiled("check", root)

    def read(self, root: Message) -> Callable[[Any], Any]:
        """Return a function that returns the value of a message of a type."""
        return self._compiled("read", root)

    def make(self, root: Message) -> Callable[[Any], Any]:
        """Return a function that returns the message of an ordinary value."""
        self._formed = _formed(root)
        return self._compiled("make", root)

    def _compiled(self, kind: str, root: Message) -> Callable[..., Any]:
        name = self._function(kind, root)
        return self._names[name] if root.special and kind != "check" else self._compile(kind, root, name)

    def _compile(self, kind: str, message: Message, label: str) -> Callable[..., Any]:
        with self._lock:  # names are counted
            lines = self._lines[kind](self, message)
            source = "\n".join((f"def {label}{lines[0]}", *(f"    {line}" for line in lines[1:])))
            exec(compile(source, f"<protobuf {kind}>", "exec"), self._names)  # noqa: S102
            found: Callable[..., Any] = self._names[label]
            return found

    def _new(self, prefix: str, value: Any = None) -> str:
        self._count += 1
        name = f"{prefix}{self._count}"
        if value is not None:
            self._names[name] = value
        return name

    def _function(self, kind: str, message: Message) -> str:
        """Return the name of the function for a message type. It is compiled when it is called first: types may contain
        themselves, or a thousand others.
        """
        key = (kind, id(message))
        if key not in self._functions:
            if message.special and kind != "check":
                self._functions[key] = self._new(f"special_{kind}", self._special(kind, message))
            else:
                label = self._functions[key] = self._new(kind)
                self._names[label] = lambda *arguments: self._compile(kind, message, label)(*arguments)
        return self._functions[key]

    def _special(self, kind: str, message: Message) -> Callable[[Any], Any]:
        if kind == "read":
            return READ[message.special]
        build = partial(self._build, message)
        if message.special != "timestamp":
            return build
        cls = self._pool.message_class(message.name)

        def timestamp(value: Any) -> Any:
            if not isinstance(value, datetime):
                return build(value)
            seconds, nanos = parts_of_time(value)
            return cls(seconds=seconds, nanos=nanos)

        return timestamp

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

    # -- making ----------------------------------------------------------------------------------

    def _make_lines(self, message: Message) -> list[str]:
        cls = self._new("cls", self._pool.message_class(message.name))
        lines = ["(v):"]
        for field in message.fields:
            if field.inner is None or id(field.inner) not in self._formed:
                continue  # the runtime takes the value as it is
            make = self._function("make", field.inner)
            if field.kind == "map":
                made = f"{{k: {make}(y) for k, y in v[{field.name!r}].items()}}"
            elif field.repeated:
                made = f"[{make}(y) for y in v[{field.name!r}]]"
            else:
                made = f"{make}(v[{field.name!r}])"
            if len(lines) == 1:
                lines.append("v = v.copy()")
            lines.append(f"if {field.name!r} in v: v[{field.name!r}] = {made}")
        return [*lines, f"return {cls}(**v)"]

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

    _lines: ClassVar[dict[str, Callable[[Compiler, Message], list[str]]]] = {
        "check": _check_lines,
        "make": _make_lines,
        "read": _read_lines,
    }


def _text(value: Any) -> str:
    """Return text; of proto2, the runtime gives bytes for what is no UTF-8."""
    if not isinstance(value, str):
        raise ValueError("a text is not valid UTF-8")
    return value


def _is_special(node: Message, value: Any, depth: int) -> bool:
    if type(value) is datetime and value.tzinfo is UTC and node.special == "timestamp":
        return True
    return not Check(1).run(node, value, depth)

"""Validators: a schema compiled once, asked often. Two engines, one verdict.

``jsonschema-rs`` where it has a wheel, else ``jsonschema``. Both get the schema as :mod:`dimesh.registry.dialect` rewrites
it and the same functions for formats; a test compares them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from decimal import Decimal
from typing import Any, Final, Literal, Protocol

from dimesh.errors import InvalidSchemaError, SchemaValidationError
from dimesh.registry.dialect import FORMATS, check_dialect, rewrite
from dimesh.registry.model import Problem

MAX_DEPTH: Final = 200
MAX_PROBLEMS: Final = 50

Engine = Literal["rust", "python"]


class _Compiled(Protocol):
    def is_valid(self, instance: Any) -> bool: ...

    def problems(self, instance: Any) -> Iterable[Problem]: ...


class Validator:
    """A compiled schema.

    Args:
        schema: Draft 7.
        name: for messages, such as ``event.lead.generated (version 3)``.
        engine: None takes the best there is.

    Raises:
        InvalidSchemaError: it is not acceptable.
    """

    def __init__(self, schema: Any, name: str = "the schema", engine: Engine | None = None) -> None:
        check_dialect(schema)
        self.name = name
        self.engine: Engine = engine or best_engine()
        self._compiled: _Compiled = _Rust(schema) if self.engine == "rust" else _Python(schema)

    def is_valid(self, data: Any) -> bool:
        """Whether ``data`` is JSON and satisfies the schema."""
        return not_json(data) is None and self._compiled.is_valid(data)

    def problems(self, data: Any) -> list[Problem]:
        """Where and why ``data`` does not satisfy the schema, in order of place; at most 50."""
        foreign = not_json(data)
        if foreign is not None:
            return [foreign]
        found = sorted(set(self._compiled.problems(data)), key=lambda p: (p.path, p.message))
        return found[:MAX_PROBLEMS]

    def check(self, data: Any) -> None:
        """Return if ``data`` satisfies the schema.

        Raises:
            SchemaValidationError: it does not; ``problems`` has each place.
        """
        if self.is_valid(data):
            return
        problems = tuple(str(problem) for problem in self.problems(data))
        raise SchemaValidationError(f"not valid against {self.name}: {'; '.join(problems[:5])}", problems)


def not_json(data: Any, path: str = "", depth: int = 1) -> Problem | None:
    """What in ``data`` is not JSON: the engines would each make something else of it."""
    kind = type(data)
    if kind is str or kind is int or kind is bool or data is None:
        if kind is str and not data.isascii():
            try:
                data.encode("utf-8")
            except UnicodeEncodeError:
                return Problem(path, "holds a lone surrogate")
        return None
    if kind is float:
        return None if math.isfinite(data) else Problem(path, f"{data} is not JSON")
    if depth > MAX_DEPTH:
        return Problem(path[:80], f"nested deeper than {MAX_DEPTH} levels")
    if kind is dict:
        for key, value in data.items():
            if type(key) is not str:
                return Problem(path, f"has a key that is {type(key).__name__}; keys are strings")
            found = not_json(key, path, depth) or not_json(value, f"{path}/{_escape(key)}", depth + 1)
            if found is not None:
                return found
        return None
    if kind is list:
        for n, value in enumerate(data):
            found = not_json(value, f"{path}/{n}", depth + 1)
            if found is not None:
                return found
        return None
    return Problem(path, f"is {kind.__name__}, which is not JSON; convert it first")


def best_engine() -> Engine:
    """``rust`` where jsonschema-rs is installed."""
    try:
        import jsonschema_rs  # noqa: F401
    except ImportError:
        return "python"
    return "rust"


class _Rust:
    def __init__(self, schema: Any) -> None:
        import jsonschema_rs

        try:
            self._validator = jsonschema_rs.Draft7Validator(
                rewrite(schema, lambda p: p.rust),
                formats=dict(FORMATS),
                validate_formats=True,
                retriever=_refuse,
            )
        except (jsonschema_rs.ValidationError, ValueError) as error:
            raise InvalidSchemaError(f"not a Draft 7 schema: {_first_line(error)}") from None

    def is_valid(self, instance: Any) -> bool:
        return bool(self._validator.is_valid(instance))

    def problems(self, instance: Any) -> Iterable[Problem]:
        for error in self._validator.iter_errors(instance):
            yield Problem(_pointer(error.instance_path), _short(error.message))


class _Python:
    def __init__(self, schema: Any) -> None:
        import jsonschema
        import referencing
        from jsonschema import validators

        rewritten = rewrite(schema, lambda p: p.python)
        try:
            jsonschema.Draft7Validator.check_schema(rewritten)
        except jsonschema.SchemaError as error:
            raise InvalidSchemaError(f"not a Draft 7 schema: {_first_line(error)}") from None
        checker = jsonschema.FormatChecker(formats=())
        for name, function in FORMATS.items():
            checker.checks(name)(_on_strings(function))
        exact = validators.extend(  # type: ignore[no-untyped-call]
            jsonschema.Draft7Validator, {"multipleOf": _multiple_of, "additionalItems": _additional_items}
        )
        self._validator = exact(rewritten, format_checker=checker, registry=referencing.Registry())

    def is_valid(self, instance: Any) -> bool:
        return bool(self._validator.is_valid(instance))

    def problems(self, instance: Any) -> Iterable[Problem]:
        for error in self._validator.iter_errors(instance):
            yield Problem(_pointer(error.absolute_path), _short(error.message))


def _multiple_of(_: Any, divisor: Any, instance: Any, __: Any) -> Iterable[Any]:
    import jsonschema

    if isinstance(instance, bool) or not isinstance(instance, (int, float)):
        return
    # In decimal, as people read the numbers: 19.99 is a multiple of 0.01.
    from decimal import localcontext

    with localcontext() as context:
        context.prec = 400
        rest = Decimal(str(instance)) % Decimal(str(divisor))
    if rest != 0:
        yield jsonschema.ValidationError(f"{instance!r} is not a multiple of {divisor}")


def _additional_items(validator: Any, additional: Any, instance: Any, schema: Any) -> Iterable[Any]:
    # Only beside a list of items does it mean anything (draft 7, 6.4.2); the library's own fails beside a boolean.
    items = schema.get("items")
    if isinstance(instance, list) and isinstance(items, list):
        for n, value in enumerate(instance[len(items) :], len(items)):
            yield from validator.descend(value, additional, path=n)


def _on_strings(function: Any) -> Any:
    return lambda value: not isinstance(value, str) or function(value)


def _refuse(address: str) -> Any:
    raise ValueError(f"a schema may not fetch {address}")


def _pointer(path: Iterable[Any]) -> str:
    return "".join(f"/{_escape(str(part))}" for part in path)


def _escape(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")


def _short(message: str) -> str:
    return message if len(message) <= 300 else message[:300] + "…"


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n", 1)[0][:300]

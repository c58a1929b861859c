"""Validation with jsonschema, where jsonschema-rs is not installed.

The library's own treatment of regular expressions is replaced: it has Python's meaning and may take exponential time. What this
engine cannot check as jsonschema-rs does is refused when a schema is compiled, or listed in docs/reference/json-schema.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from decimal import Decimal, localcontext
from functools import cache, lru_cache
from typing import Any, Final

import jsonschema
import referencing
from jsonschema import validators
from jsonschema_specifications import REGISTRY
from referencing.jsonschema import DRAFT7

from dimesh.errors import InvalidSchemaError
from dimesh.registry.jsonschema.documents import BASE
from dimesh.registry.jsonschema.drafts import Draft, draft_of, subschemas
from dimesh.registry.jsonschema.expressions import FORMATS, translate
from dimesh.registry.jsonschema.matching import Matcher
from dimesh.registry.jsonschema.wording import MASK, explicit, first_line, pointer, refuse, short
from dimesh.spi.schema import Problem

_KINDS: Final[Mapping[Draft, Any]] = {
    Draft.DRAFT_7: jsonschema.Draft7Validator,
    Draft.DRAFT_2019_09: jsonschema.Draft201909Validator,
    Draft.DRAFT_2020_12: jsonschema.Draft202012Validator,
}
_TOO_DEEP: Final = "too deep for this engine: install jsonschema-rs"


class Python:
    """See :class:`dimesh.registry.jsonschema.engines.Compiled`."""

    def __init__(
        self,
        document: Any,
        draft: Draft,
        references: Mapping[str, Any],
        hide: bool,
        trusted: bool = False,
    ) -> None:
        kind = _KINDS[draft]
        try:
            if not trusted:
                kind.check_schema(document)
        except jsonschema.SchemaError as error:
            raise InvalidSchemaError(
                f"#{pointer(error.absolute_path)}: not a {draft} schema: {first_line(error)}"
            ) from None
        _check_patterns(document, "#")
        for address, reference in references.items():
            _check_patterns(reference, address)
        resources = [
            (address, referencing.Resource.from_contents(explicit(reference), default_specification=DRAFT7))
            for address, reference in ({BASE: document} | dict(references)).items()
        ]
        registry: Any = referencing.Registry(retrieve=refuse).with_resources(resources)  # type: ignore[call-arg]
        registry = REGISTRY.combine(registry).crawl()
        own = document.get("$id") if isinstance(document, Mapping) else None
        root: Any = document
        if not isinstance(own, str):
            root = (
                {"$ref": BASE}
                if draft is Draft.DRAFT_7
                else {"$schema": kind.META_SCHEMA["$id"], "$ref": BASE}
            )
        self._validator = _exact(draft)(root, format_checker=_FORMATS, registry=registry)
        self._hide = hide

    def is_valid(self, value: Any) -> bool:
        """Return whether the schema allows a JSON value."""
        try:
            return bool(self._validator.is_valid(value))
        except RecursionError:
            return False

    def problems(self, value: Any) -> Iterator[Problem]:
        """Yield what is wrong."""
        try:
            for error in self._validator.iter_errors(value):
                message = f"{MASK} violates {error.validator}" if self._hide else short(error.message)
                path = list(error.absolute_schema_path)
                yield Problem(
                    pointer(error.absolute_path), message, pointer(path), str(error.validator or "")
                )
        except RecursionError:
            yield Problem("", _TOO_DEEP)


def _check_patterns(schema: Any, path: str) -> None:
    if not isinstance(schema, Mapping):
        return
    patterns = [schema["pattern"]] if isinstance(schema.get("pattern"), str) else []
    patterns += schema.get("patternProperties", ())
    for pattern in patterns:
        try:
            _matcher(pattern)
        except InvalidSchemaError as error:
            raise InvalidSchemaError(f"{path}: {error}, or install jsonschema-rs") from None
    if patterns and "unevaluatedProperties" in schema and "patternProperties" in schema:
        raise InvalidSchemaError(
            f"{path}: unevaluatedProperties beside patternProperties needs jsonschema-rs: install it"
        )
    for _, step, child in subschemas(schema):
        _check_patterns(child, f"{path}/{step}")


@lru_cache(maxsize=1_000)
def _matcher(pattern: str) -> Matcher:
    return Matcher(translate(pattern).python)


# -- keywords --------------------------------------------------------------------------------------------


def _pattern(_: Any, pattern: str, instance: Any, __: Any) -> Iterator[Any]:
    if isinstance(instance, str) and not _matcher(pattern).search(instance):
        yield jsonschema.ValidationError(f"{instance!r} does not match {pattern!r}")


def _pattern_properties(validator: Any, patterns: Mapping[str, Any], instance: Any, _: Any) -> Iterator[Any]:
    if isinstance(instance, dict):
        for pattern, schema in patterns.items():
            matcher = _matcher(pattern)
            for name, value in instance.items():
                if matcher.search(name):
                    yield from validator.descend(value, schema, path=name, schema_path=pattern)


def _additional_properties(validator: Any, additional: Any, instance: Any, schema: Any) -> Iterator[Any]:
    if not isinstance(instance, dict):
        return
    known = schema.get("properties", {})
    matchers = [_matcher(pattern) for pattern in schema.get("patternProperties", ())]
    extra = [n for n in instance if n not in known and not any(m.search(n) for m in matchers)]
    if additional is False and extra:
        names = ", ".join(repr(name) for name in extra)
        yield jsonschema.ValidationError(f"Additional properties are not allowed ({names} unexpected)")
    elif additional is not False:
        for name in extra:
            yield from validator.descend(instance[name], additional, path=name)


def _multiple_of(_: Any, divisor: Any, instance: Any, __: Any) -> Iterator[Any]:
    if isinstance(instance, bool) or not isinstance(instance, (int, float)):
        return
    # Decimal arithmetic gives the answer that people expect: 19.99 is a multiple of 0.01.
    with localcontext() as context:
        context.prec = 5_000
        rest = Decimal(str(instance)) % Decimal(str(divisor))
    if rest != 0:
        yield jsonschema.ValidationError(f"{instance!r} is not a multiple of {divisor}")


def _additional_items(validator: Any, additional: Any, instance: Any, schema: Any) -> Iterator[Any]:
    # The keyword applies only beside a list of items (Draft 7, 6.4.2); the library's own implementation fails beside a boolean.
    items = schema.get("items")
    if isinstance(instance, list) and isinstance(items, list):
        for n, value in enumerate(instance[len(items) :], len(items)):
            yield from validator.descend(value, additional, path=n)


@cache
def _exact(draft: Draft) -> Any:
    keywords: dict[str, Any] = {
        "pattern": _pattern,
        "patternProperties": _pattern_properties,
        "additionalProperties": _additional_properties,
        "multipleOf": _multiple_of,
    }
    if draft is not Draft.DRAFT_2020_12:
        keywords["additionalItems"] = _additional_items
    made: Any = validators.extend(_KINDS[draft], keywords)  # type: ignore[no-untyped-call]
    made.evolve = _evolve
    return made


def _evolve(self: Any, **changes: Any) -> Any:
    """Return a validator for a part of a schema. The library's own one leaves our keywords at a schema with ``$schema``."""
    schema = changes.setdefault("schema", self.schema)
    kind = type(self)
    if isinstance(schema, Mapping) and "$schema" in schema:
        kind = _exact(draft_of(schema))
    for attribute in kind.__attrs_attrs__:
        if attribute.init:
            changes.setdefault(attribute.alias, getattr(self, attribute.name))
    return kind(**changes)


def _on_strings(function: Any) -> Any:
    return lambda value: not isinstance(value, str) or function(value)


def _checker() -> jsonschema.FormatChecker:
    checker = jsonschema.FormatChecker(formats=())
    for name, function in FORMATS.items():
        checker.checks(name)(_on_strings(function))
    return checker


_FORMATS: Final = _checker()

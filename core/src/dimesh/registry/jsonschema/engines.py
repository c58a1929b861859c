"""The two engines that validate: jsonschema-rs, which decides, and jsonschema, where that is not installed.

The page docs/reference/json-schema.md lists every known difference between them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, Literal, Protocol

from dimesh.errors import InvalidSchemaError
from dimesh.registry.jsonschema.documents import BASE
from dimesh.registry.jsonschema.drafts import Draft
from dimesh.registry.jsonschema.wording import MASK, explicit, first_line, pointer, refuse, short
from dimesh.spi.schema import Problem

Engine = Literal["rust", "python"]
MAX_BACKTRACKS: Final = 100_000
"""The greatest number of tries to match a pattern that has look-around or a back-reference."""


class Compiled(Protocol):
    """A schema, compiled by an engine."""

    def is_valid(self, value: Any) -> bool:
        """Return whether the schema allows a JSON value."""
        ...

    def problems(self, value: Any) -> Iterable[Problem]:
        """Yield what is wrong."""
        ...


def compile_schema(
    document: Any,
    draft: Draft,
    references: Mapping[str, Any],
    *,
    hide: bool,
    engine: Engine | None = None,
    trusted: bool = False,
) -> Compiled:
    """Return a compiled schema.

    Args:
        document: the schema.
        draft: its draft.
        references: what it may refer to, by addresses.
        hide: keep values out of messages.
        engine: the engine; None: the best one that is installed.
        trusted: whether it is known that the document is a schema of the draft. To check that takes jsonschema a second for
            a hundred properties.

    Raises:
        InvalidSchemaError: the document is no schema of its draft, or the engine cannot use it.
    """
    if (engine or best_engine()) == "rust":
        return _Rust(document, draft, references, hide)
    from dimesh.registry.jsonschema.fallback import Python

    return Python(document, draft, references, hide, trusted)


def best_engine() -> Engine:
    """Return ``rust`` if jsonschema-rs is installed, else ``python``."""
    try:
        import jsonschema_rs  # noqa: F401
    except ImportError:
        return "python"
    return "rust"


class _Rust:
    def __init__(self, document: Any, draft: Draft, references: Mapping[str, Any], hide: bool) -> None:
        import jsonschema_rs

        kinds = {
            Draft.DRAFT_7: jsonschema_rs.Draft7Validator,
            Draft.DRAFT_2019_09: jsonschema_rs.Draft201909Validator,
            Draft.DRAFT_2020_12: jsonschema_rs.Draft202012Validator,
        }
        # The retriever of a registry is called even where a validator is offline.
        registry = None
        if references:
            resources = [(address, explicit(reference)) for address, reference in references.items()]
            registry = jsonschema_rs.Registry(resources, retriever=refuse)
        try:
            validator = kinds[draft](
                document,
                registry=registry,
                base_uri=BASE,
                offline=True,
                validate_formats=True,
                mask=MASK if hide else None,
                pattern_options=jsonschema_rs.FancyRegexOptions(backtrack_limit=MAX_BACKTRACKS),
            )
        except (jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError, ValueError) as error:
            where = pointer(getattr(error, "instance_path", ()))
            raise InvalidSchemaError(f"#{where}: not a {draft} schema: {first_line(error)}") from None
        self.is_valid = validator.is_valid
        self._errors = validator.iter_errors

    def problems(self, value: Any) -> Iterator[Problem]:
        for error in self._errors(value):
            keyword = error.kind.name
            message = "no value is allowed here" if keyword == "falseSchema" else short(error.message)
            path = pointer(error.schema_path)
            yield Problem(pointer(error.instance_path), message, path, path.rpartition("/")[2] or keyword)

"""Where references lead: inside a document, and to the documents that were given with it. Nothing is ever fetched."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple
from urllib.parse import unquote, urljoin, urlsplit

from dimesh.errors import InvalidSchemaError
from dimesh.events.names import show
from dimesh.registry.jsonschema.drafts import (
    LISTS,
    MAPS,
    ONE,
    SUBSCHEMAS,
    Draft,
    draft_of,
    escape,
    meta_schema,
)
from dimesh.registry.jsonschema.patterns import check_pattern

MAX_DEPTH: Final = 100
"""The greatest nesting of schemas in a document."""
BASE: Final = "https://schema.invalid/"
"""The address of a document that has no ``$id``; the names of its references are relative to it."""

SENSITIVE: Final = ("writeOnly", "sensitive", "x-sensitive")
"""The keywords that mark data as sensitive, if they are true."""
_REFERRING: Final = frozenset(
    {"$anchor", "$dynamicAnchor", "$dynamicRef", "$id", "$recursiveAnchor", "$recursiveRef", "$ref"}
)
_LIMITED: Final = frozenset(
    {"pattern", "patternProperties", "unevaluatedItems", "unevaluatedProperties", *SENSITIVE}
)
_INTERESTING: Final = SUBSCHEMAS | _REFERRING | _LIMITED

_Trail = tuple[Any, Any]
"""Where a schema is: the trail of its parent, and the step from there. It becomes a path only for a message."""


class Place(NamedTuple):
    """A schema, with what its references depend on."""

    schema: Any
    base: str
    draft: Draft


class Documents:
    """A schema and the documents that it may refer to.

    Args:
        document: the schema.
        given: the other documents by their addresses.

    Raises:
        InvalidSchemaError: a limit is exceeded, or a pattern is refused; the message says where.
    """

    def __init__(self, document: Any, given: Mapping[str, Any]) -> None:
        if not isinstance(document, (Mapping, bool)):
            raise InvalidSchemaError(
                f"a JSON Schema is an object or a boolean, not {type(document).__name__}"
            )
        self.given = given
        self._resources: dict[str, Place] = {}
        self._anchors: dict[str, Place] = {}
        self._dynamic: dict[str, list[Place]] = {}
        self._places: dict[int, Place] = {}
        """The schemas that have an address of their own, by their identity as objects."""
        self._seen: set[int] = set()
        self.root = self._enter(BASE, document, Draft.DRAFT_7)
        self.sensitive = False
        """Whether the document marks something as sensitive."""
        self.unevaluated = False
        """Whether the document has ``unevaluatedProperties`` or ``unevaluatedItems``."""
        self.references: list[tuple[Place, str]] = []
        """The schemas of the document itself that refer to others, each with its path."""
        if isinstance(document, dict):
            self._scan(self.root, "#", own=True)

    @property
    def size(self) -> int:
        """The number of schemas."""
        return len(self._seen)

    def place(self, schema: Any, near: Place) -> Place:
        """Return the place of a subschema of another place."""
        return self._places.get(id(schema)) or Place(schema, near.base, near.draft)

    # -- scanning --------------------------------------------------------------------------------

    def _enter(self, address: str, document: Any, draft: Draft) -> Place:
        """Make a document known under its address and its ``$id``."""
        draft = draft_of(document, draft)
        own = document.get("$id") if isinstance(document, Mapping) else None
        ignored = draft is Draft.DRAFT_7 and isinstance(document, Mapping) and "$ref" in document
        base = address
        if isinstance(own, str) and not own.startswith("#") and not ignored:
            base = join(address, own).partition("#")[0]
        place = Place(document, base, draft)
        self._resources.setdefault(base, place)
        self._resources.setdefault(address, place)
        if isinstance(document, Mapping):
            self._places[id(document)] = place
        return place

    def _scan(self, place: Place, path: str, own: bool) -> None:
        """Visit all schemas below a place; ``own``: it belongs to the document itself, which is checked against the limits."""
        waiting: list[tuple[Any, str, Draft, _Trail, int]] = [(*place, (None, path), 1)]
        while waiting:
            schema, base, draft, trail, depth = waiting.pop()
            if _INTERESTING.isdisjoint(schema):
                self._seen.add(id(schema))
                continue
            if depth > MAX_DEPTH:
                raise InvalidSchemaError(
                    f"{_path(trail)[:80]}…: nested deeper than {MAX_DEPTH} levels: use $ref"
                )
            if "$id" in schema and depth > 1:
                base, draft = self._embedded(Place(schema, base, draft), own, trail)
            self._seen.add(id(schema))
            if not _REFERRING.isdisjoint(schema):
                self._named(Place(schema, base, draft), own, trail)
            if own and not _LIMITED.isdisjoint(schema):
                self._limited(schema, trail)
            for keyword, value in schema.items():
                if keyword not in SUBSCHEMAS:
                    continue
                if isinstance(value, dict):
                    if keyword in MAPS:
                        for name, child in value.items():
                            if isinstance(child, dict):
                                waiting.append((child, base, draft, ((trail, keyword), name), depth + 1))
                    elif keyword in ONE:
                        waiting.append((value, base, draft, (trail, keyword), depth + 1))
                elif isinstance(value, list) and keyword in LISTS:
                    for n, child in enumerate(value):
                        if isinstance(child, dict):
                            waiting.append((child, base, draft, ((trail, keyword), n), depth + 1))

    def _embedded(self, place: Place, own: bool, trail: _Trail) -> tuple[str, Draft]:
        """Return the address and draft of a subschema that has an ``$id``."""
        schema, base, draft = place
        identity = schema["$id"]
        if (
            not isinstance(identity, str)
            or identity.startswith("#")
            or (draft is Draft.DRAFT_7 and "$ref" in schema)
        ):
            return base, draft
        if own and "#" in identity.rstrip("#"):
            raise InvalidSchemaError(f"{_path(trail)}/$id: {show(identity)} has a fragment: use $anchor")
        inner = self._enter(base, schema, draft)
        return inner.base, inner.draft

    def _named(self, place: Place, own: bool, trail: _Trail) -> None:
        """Remember the names and the references of a schema."""
        schema, base, draft = place
        if "$ref" in schema or "$dynamicRef" in schema or "$recursiveRef" in schema:
            if own:
                self.references.append((place, _path(trail)))
            if "$ref" in schema and draft is Draft.DRAFT_7:
                return  # the other keywords beside it are ignored
        identity = schema.get("$id")
        if isinstance(identity, str) and identity.startswith("#") and draft is Draft.DRAFT_7:
            self._anchors.setdefault(f"{base}{identity}", place)
        for keyword in ("$anchor", "$dynamicAnchor"):
            name = schema.get(keyword)
            if isinstance(name, str):
                self._anchors.setdefault(f"{base}#{name}", place)
                if keyword == "$dynamicAnchor":
                    self._dynamic.setdefault(name, []).append(place)
        if schema.get("$recursiveAnchor") is True:
            self._dynamic.setdefault("", []).append(place)

    def _limited(self, schema: Mapping[str, Any], trail: _Trail) -> None:
        """Check the patterns of a schema, and look for what needs care."""
        if "pattern" in schema:
            check_pattern(schema["pattern"], lambda: f"{_path(trail)}/pattern")
        patterns = schema.get("patternProperties")
        if isinstance(patterns, Mapping):
            for pattern in patterns:
                check_pattern(pattern, lambda: f"{_path(trail)}/patternProperties")
        if "unevaluatedProperties" in schema or "unevaluatedItems" in schema:
            self.unevaluated = True
        if any(schema.get(keyword) is True for keyword in SENSITIVE):
            self.sensitive = True

    # -- resolving -------------------------------------------------------------------------------

    def dynamic_targets(self, place: Place) -> Iterator[Place]:
        """Yield the places of which a dynamic reference leads to one, as the case may be.

        Raises:
            InvalidSchemaError: the reference has no target.
        """
        schema = place.schema
        if "$dynamicRef" in schema and place.draft is Draft.DRAFT_2020_12:
            reference = schema["$dynamicRef"]
            yield self.target(place, reference)
            yield from self._dynamic.get(str(reference).partition("#")[2], ())
        if "$recursiveRef" in schema and place.draft is Draft.DRAFT_2019_09:
            yield self.target(place, schema["$recursiveRef"])
            yield from self._dynamic.get("", ())

    def target(self, place: Place, reference: Any) -> Place:
        """Return the place that a reference leads to.

        Raises:
            InvalidSchemaError: the reference has no target.
        """
        if not isinstance(reference, str):
            raise InvalidSchemaError(f"a $ref is a string, not {type(reference).__name__}")
        address, _, fragment = join(place.base, reference).partition("#")
        found = self._resource(address)
        if found is None:
            names = (
                ", ".join(sorted(show(name.removeprefix(BASE)) for name in self.given)) or "none were given"
            )
            raise InvalidSchemaError(
                f"$ref {show(reference)} leads out of the document: register its target, and give that as a reference "
                f"of this name (references: {names}), or copy the target into the document"
            )
        if fragment and not fragment.startswith("/"):
            anchor = self._anchors.get(f"{found.base}#{unquote(fragment)}") or self._anchors.get(
                f"{address}#{fragment}"
            )
            if anchor is None:
                raise InvalidSchemaError(f"$ref {show(reference)} has no target: there is no such anchor")
            return anchor
        return self._pointed(found, unquote(fragment), reference)

    def _resource(self, address: str) -> Place | None:
        found = self._resources.get(address)
        if found is None:
            document = self.given.get(address)
            if document is None:
                document = meta_schema(address)
            if document is None:
                return None
            found = self._enter(address, document, Draft.DRAFT_7)
        if isinstance(found.schema, dict) and id(found.schema) not in self._seen:
            self._scan(found, address, own=False)
        return found

    def _pointed(self, place: Place, pointer: str, reference: str) -> Place:
        target: Any = place.schema
        near = place
        for part in pointer.split("/")[1:]:
            key = part.replace("~1", "/").replace("~0", "~")
            if isinstance(target, Mapping) and key in target:
                target = target[key]
            elif isinstance(target, list) and key.isascii() and key.isdigit() and int(key) < len(target):
                target = target[int(key)]
            else:
                raise InvalidSchemaError(f"$ref {show(reference)} has no target in the document")
            near = self._places.get(id(target), near)
        if isinstance(target, bool):
            return Place(target, near.base, near.draft)
        if not isinstance(target, Mapping):
            raise InvalidSchemaError(f"$ref {show(reference)} leads to something that is not a schema")
        found = Place(target, near.base, near.draft)
        if id(target) not in self._seen:
            # A target below a keyword that the draft does not know is a schema all the same.
            self._scan(found, show(reference), own=True)
        return found


def join(base: str, reference: str) -> str:
    """Return the address that a reference means in a document with this address."""
    if reference.startswith("#") or not reference:
        return base.partition("#")[0] + reference
    try:
        if urlsplit(reference).scheme:
            return reference
        return urljoin(base, reference)
    except ValueError as error:
        raise InvalidSchemaError(f"{show(reference)} is not an address: {error}") from None


def _path(trail: _Trail) -> str:
    steps: list[str] = []
    parent, step = trail
    while parent is not None:
        steps.append(escape(str(step)))
        parent, step = parent
    return "/".join([str(step), *reversed(steps)])

"""What the validation of a value costs at most, computed when a schema is registered.

The unit is the application of one schema to one value. Schemas that apply to the same value add up (``allOf``, ``anyOf``,
``$ref``, …); of those that apply to different parts of a value only the costliest counts. The time to validate data is then at
most proportional to the number of values in it times this cost. A recursive schema can cost more the deeper the data is, so it
may get a limit of depth.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from dimesh.errors import InvalidSchemaError
from dimesh.events.names import show
from dimesh.registry.jsonschema.documents import Documents, Place
from dimesh.registry.jsonschema.drafts import IN_PLACE, SUBSCHEMAS, Draft, subschemas

MAX_COST: Final = 20_000
"""The greatest number of schemas that may apply to one value and to one chain of the values in it."""
MAX_CHAIN: Final = 200
"""The greatest number of schemas that apply to the same value because each contains or refers to the next one."""
MAX_DATA_DEPTH: Final = 200
"""The greatest depth of data, as in all JSON of the mesh."""
_MAX_STEPS: Final = 2_000_000
_REFERENCES: Final = ("$ref", "$dynamicRef", "$recursiveRef")
_APART: Final = frozenset({"$defs", "contentSchema", "definitions"})


class _Node:
    """A schema in the graph: what it applies to the same value, and to the parts of objects and arrays."""

    __slots__ = (
        "array",
        "arrays",
        "before",
        "chain",
        "choice",
        "every",
        "factor",
        "name",
        "object",
        "objects",
        "same",
    )

    def __init__(self, name: object = None) -> None:
        self.name = name
        self.same: list[_Node] = []
        self.choice: list[_Node] = []
        """The targets of a dynamic reference: one of them applies to the same value."""
        self.objects: list[_Node] = []
        self.arrays: list[_Node] = []
        self.every: tuple[list[_Node], list[_Node]] = ([], [])
        """What applies to each part of an object, of an array, beside one of ``objects`` or ``arrays``."""
        self.factor = 1
        self.chain = 1
        self.object = self.array = self.before = 1
        """The cost of an object and of an array; ``before``: of any value that is one level less deep."""

    def in_place(self) -> Iterable[_Node]:
        return (*self.same, *self.choice)

    def all(self) -> Iterable[_Node]:
        return (*self.same, *self.choice, *self.objects, *self.arrays, *self.every[0], *self.every[1])

    def update(self, parts: bool = True) -> None:
        """Compute the costs from those of the schemas that this one applies."""
        of_object = of_array = 1
        for node in self.same:
            of_object += self.factor * node.object
            of_array += self.factor * node.array
            self.chain = max(self.chain, node.chain + 1)
        if self.choice:
            of_object += self.factor * max(node.object for node in self.choice)
            of_array += self.factor * max(node.array for node in self.choice)
            self.chain = max(self.chain, 1 + max(node.chain for node in self.choice))
        if parts:
            if self.objects or self.every[0]:
                of_object += max((n.before for n in self.objects), default=0) + sum(
                    n.before for n in self.every[0]
                )
            if self.arrays or self.every[1]:
                of_array += max((n.before for n in self.arrays), default=0) + sum(
                    n.before for n in self.every[1]
                )
        self.object, self.array = of_object, of_array


_LEAF: Final = _Node()
_LEADS_ON: Final = SUBSCHEMAS | frozenset(_REFERENCES)


def depth_limit(documents: Documents) -> int | None:
    """Return the greatest depth of data that can be validated within the limit of the cost; None: the depth does not matter.

    Raises:
        InvalidSchemaError: the cost exceeds the limit at any depth, a schema contains itself without going into the value, or a
            reference has no target.
    """
    if not documents.references and not documents.unevaluated and documents.size <= MAX_COST:
        return None  # each schema applies at most once to a value
    root, nodes = _graph(documents)
    # Schemas that do not lead to themselves have a fixed cost.
    fixed, recursive = _sorted(nodes, _Node.all)
    for node in fixed:
        node.update()
        node.before = max(node.object, node.array)
        _check(node)
    if not recursive:
        return None
    order, endless = _sorted(recursive, _Node.in_place)
    if endless:
        name = next((n.name for n in endless if n.name is not None), "#")
        raise InvalidSchemaError(
            f"a schema applies itself to the same value, over $ref {show(name)}: validation would never end. Put the reference "
            "below properties or items, or remove it"
        )
    return _recursive_limit(root, order)


def _recursive_limit(root: _Node, order: Sequence[_Node]) -> int:
    """Return the greatest depth of data at which the cost is within the limit."""
    size = len(order)
    history: list[int] = []
    last = min(MAX_DATA_DEPTH, _MAX_STEPS // size)
    for depth in range(last + 1):
        for node in order:
            node.update(parts=depth > 0)
            if depth < 2:
                _check(node)
        if max(root.object, root.array) > MAX_COST:
            return depth - 1
        for node in order:
            node.before = max(node.object, node.array)
        history.append(max(node.before for node in order))
        # A way from a schema to itself has at most ``size`` levels. If the cost grew no faster in the last of them than in
        # those before, it goes on like this.
        if depth >= max(16, 2 * size):
            growth = history[depth] - history[depth - size]
            steps = -(-(last - depth) // size)
            if (
                growth <= history[depth - size] - history[depth - 2 * size]
                and history[depth] + steps * growth <= MAX_COST
            ):
                break
    return last


def _check(node: _Node) -> None:
    if max(node.object, node.array) > MAX_COST:
        raise InvalidSchemaError(
            f"more than {MAX_COST:,} schemas would apply to one value when each $ref, allOf, anyOf and oneOf is written out: "
            "refer to each schema fewer times"
        )
    if node.chain > MAX_CHAIN:
        raise InvalidSchemaError(
            f"more than {MAX_CHAIN} schemas in a chain apply to the same value: make the chain of $ref, allOf, anyOf and oneOf "
            "shorter"
        )


def _graph(documents: Documents) -> tuple[_Node, Sequence[_Node]]:
    """Return the schema, and everything that it contains or refers to."""
    nodes: dict[int, _Node] = {}
    waiting: list[tuple[_Node, Place]] = []
    dynamic: list[tuple[_Node, Place]] = []

    def node_of(place: Place) -> _Node:
        schema = place.schema
        if not isinstance(schema, Mapping) or _LEADS_ON.isdisjoint(schema):
            return _LEAF
        node = nodes.get(id(schema))
        if node is None:
            node = nodes[id(schema)] = _Node(
                schema.get("$ref") or schema.get("$dynamicRef") or schema.get("$recursiveRef")
            )
            waiting.append((node, place))
        return node

    def refer(node: _Node, place: Place) -> None:
        if "$ref" in place.schema:
            node.same.append(node_of(documents.target(place, place.schema["$ref"])))
        node.choice += map(node_of, documents.dynamic_targets(place))

    root = node_of(documents.root)
    for place, path in documents.references:
        # Also those of definitions that nothing uses.
        try:
            refer(node_of(place), place)
        except InvalidSchemaError as error:
            raise InvalidSchemaError(f"{path}: {error}") from None
    own = {id(place.schema) for place, _ in documents.references}
    while waiting:
        while waiting:
            node, place = waiting.pop()
            schema = place.schema
            if any(keyword in schema for keyword in _REFERENCES):
                if id(schema) not in own:
                    refer(node, place)
                if place.draft is not Draft.DRAFT_7:
                    dynamic.append((node, place))
                elif "$ref" in schema:
                    continue  # the other keywords are ignored
            _connect(node, place, documents, node_of)
        # Documents that were entered later may have more targets of a dynamic reference.
        for node, place in dynamic:
            node.choice = [node_of(target) for target in documents.dynamic_targets(place)]
    return root, list(nodes.values())


def _connect(node: _Node, place: Place, documents: Documents, node_of: Callable[[Place], _Node]) -> None:
    schema = place.schema
    if "unevaluatedProperties" in schema or "unevaluatedItems" in schema:
        node.factor = 2  # the subschemas are applied once more, to find out what they evaluate
    for keyword, _, child in subschemas(schema):
        if keyword in _APART:
            continue
        inner = node_of(documents.place(child, place))
        if keyword in IN_PLACE:
            node.same.append(inner)
        elif keyword in ("properties", "additionalProperties"):
            node.objects.append(inner)
        elif keyword in ("items", "prefixItems", "additionalItems"):
            node.arrays.append(inner)
        else:
            node.every[keyword in ("contains", "unevaluatedItems")].append(inner)


def _sorted(
    nodes: Sequence[_Node], following: Callable[[_Node], Iterable[_Node]]
) -> tuple[Sequence[_Node], Sequence[_Node]]:
    """Return the nodes so that what follows a node comes before it, and those of which this is impossible."""
    left = {id(node): 0 for node in nodes}
    leads_to: dict[int, list[_Node]] = {}
    for node in nodes:
        for inner in following(node):
            if id(inner) in left:
                left[id(node)] += 1
                leads_to.setdefault(id(inner), []).append(node)
    done = [node for node in nodes if not left[id(node)]]
    for node in done:  # grows
        for outer in leads_to.get(id(node), ()):
            left[id(outer)] -= 1
            if not left[id(outer)]:
                done.append(outer)
    if len(done) == len(nodes):
        return done, ()
    return done, [node for node in nodes if left[id(node)]]

"""The verdict: a proof, else a witness, else what could not be decided."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, Final
from weakref import WeakKeyDictionary

from dimesh.errors import InvalidSchemaError
from dimesh.registry.jsonschema.compatibility.confluent import CONFLUENT, confluent_verdict
from dimesh.registry.jsonschema.compatibility.emission import CannotEmitError, Emission
from dimesh.registry.jsonschema.compatibility.nodes import Graph, Node
from dimesh.registry.jsonschema.compatibility.proof import Failure, OutOfStepsError, Policy, Proof
from dimesh.registry.jsonschema.compatibility.witness import search
from dimesh.registry.jsonschema.drafts import Draft
from dimesh.registry.jsonschema.engines import Compiled, Engine, best_engine, compile_schema
from dimesh.registry.jsonschema.parsed import ParsedJsonSchema
from dimesh.spi.schema import PROVED, Difference, Outcome, Verdict, Witness

POLICIES: Final = {
    "strict": Policy(fills=False, tolerant=False),
    "defaults": Policy(fills=True, tolerant=False),
    "tolerant": Policy(fills=True, tolerant=True),
}
MAX_DIFFERENCES: Final = 20


def compare(writer: ParsedJsonSchema, reader: ParsedJsonSchema, policy: str) -> Verdict:
    """Return whether the reader allows everything that the writer allows.

    Args:
        writer: the schema of the data.
        reader: the schema of the one who reads the data.
        policy: see :data:`dimesh.spi.schema.POLICIES`.
    """
    if writer.canonical == reader.canonical and writer.referenced == reader.referenced:
        return PROVED
    w, r = _graph(writer), _graph(reader)
    if policy in CONFLUENT:
        return confluent_verdict(w, r, lenient=CONFLUENT[policy])
    rules = POLICIES[policy]
    proof = Proof(rules)
    failures: list[Failure]
    try:
        failures = proof.failures(w, r)
    except (OutOfStepsError, RecursionError):
        failures = [Failure("too-large", "the schemas are too large to compare", w, r, ())]
    if not failures:
        return PROVED
    found = _Confirmation(writer, reader, w, r, rules).search(failures)
    differences = _differences(failures)
    if found is None:
        return Verdict(Outcome.UNDECIDED, differences)
    problems = reader.problems(found[0])
    return Verdict(Outcome.REFUTED, differences, Witness(found[0], str(problems[0]) if problems else ""))


_graphs: WeakKeyDictionary[ParsedJsonSchema, Node] = WeakKeyDictionary()
"""The graphs of the schemas that were compared before, as long as the schemas are in use."""


def _graph(schema: ParsedJsonSchema) -> Node:
    known = _graphs.get(schema)
    if known is None:
        known = _graphs[schema] = Graph(schema.documents).root
    return known


def _differences(failures: Sequence[Failure]) -> tuple[Difference, ...]:
    made = [Difference(f.code, f.reader.where, f.message) for f in failures]
    return tuple(dict.fromkeys(made))[:MAX_DIFFERENCES]


class _Confirmation:
    """Asks the validators about values. Every one that can be asked must agree."""

    def __init__(
        self, writer: ParsedJsonSchema, reader: ParsedJsonSchema, w: Node, r: Node, policy: Policy
    ) -> None:
        self._writer = writer
        self._reader = reader
        self._nodes = (w, r)
        self._policy = policy

    def search(self, failures: Sequence[Failure]) -> tuple[Any] | None:
        """Return a witness in a tuple of its own; None if none is found."""
        try:
            if self._policy.fills or self._policy.tolerant:
                _ = self._own
        except (CannotEmitError, InvalidSchemaError, RecursionError):
            return None
        try:
            found: tuple[Any] | None = search(self._nodes[0], failures, Proof(self._policy), self._is_witness)
        except (OutOfStepsError, RecursionError):
            return None
        return found

    def _is_witness(self, value: Any) -> bool:
        # The schemas as they are, first: closing and opening only take values away and add values.
        if not self._writer.is_valid(value) or self._reader.is_valid(value):
            return False
        if self._policy.fills or self._policy.tolerant:
            w, r = self._own
            if not w.is_valid(value) or r.is_valid(value):
                return False
        w, r = self._second
        return w.is_valid(value) and not r.is_valid(value)

    def _compiled(self, engine: Engine) -> tuple[Compiled, Compiled]:
        if not (self._policy.fills or self._policy.tolerant):
            return tuple(  # type: ignore[return-value]
                compile_schema(p.document, p.draft, p.addresses, hide=False, engine=engine, trusted=True)
                for p in (self._writer, self._reader)
            )
        return tuple(  # type: ignore[return-value]
            compile_schema(d, Draft.DRAFT_2019_09, {}, hide=False, engine=engine, trusted=True)
            for d in self._documents
        )

    @cached_property
    def _documents(self) -> tuple[Any, Any]:
        """Both schemas as the policy sees them."""
        tolerant = self._policy.tolerant
        return (
            Emission(close=tolerant).document(self._nodes[0]),
            Emission(open_=tolerant, fill=self._policy.fills).document(self._nodes[1]),
        )

    @cached_property
    def _own(self) -> tuple[Compiled, Compiled]:
        return self._compiled(best_engine())

    @cached_property
    def _second(self) -> tuple[Compiled, Compiled]:
        """The second opinion: ``jsonschema``, asked only about what looks like a witness, because it is slow."""
        return self._compiled("python")

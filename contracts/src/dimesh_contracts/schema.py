"""What every schema language must satisfy::

    class TestMine(SchemaLanguageContract):
        @pytest.fixture
        def language(self):
            return MyLanguage()

        @pytest.fixture
        def examples(self):
            return Examples(schemas=[…], changes=[…], hostile=[…], unresolved=[…])

The kit can only be as good as the examples: each kind of type, and each kind of change, should be among them.
"""

from __future__ import annotations

import copy
import random
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest

from dimesh.capabilities import Capability
from dimesh.errors import InvalidSchemaError, SchemaValidationError
from dimesh.spi.schema import POLICIES, Outcome, ParsedSchema, SchemaLanguage, Verdict
from dimesh_contracts.contract import Contract, Guarantee, proves

QUICK = 2.0
"""The seconds of CPU within which each call ends, whatever its arguments; usually it takes milliseconds."""


@dataclass(frozen=True)
class Example:
    """A schema of the language."""

    text: str
    values: Sequence[Any]
    """Values that the schema allows, and that encoding and decoding return as they are."""
    invalid: Sequence[Any] = ()
    """Values that the schema does not allow."""
    spellings: Sequence[str] = ()
    """Other texts of the same schema."""
    others: Sequence[str] = ()
    """Texts of schemas that are almost the same, and mean something else."""
    references: Mapping[str, str] = field(default_factory=dict)
    """The texts of the schemas that the text refers to, by the names that it uses. None of them has references itself."""


@dataclass(frozen=True)
class Change:
    """Two versions of a schema."""

    writer: str
    reader: str
    values: Sequence[Any]
    """Values of the writer, above all those that could be difficult for the reader."""
    compatible: bool
    """Whether the reader can read everything that the writer may write."""


@dataclass(frozen=True)
class Examples:
    """The schemas that the kit uses."""

    schemas: Sequence[Example]
    changes: Sequence[Change]
    hostile: Sequence[str]
    """Texts that try to take much time or memory. Refusing and accepting them are both right, if that is quick."""
    unresolved: Sequence[str]
    """Texts that refer to what is not among the references: names, files, addresses."""


class SchemaGuarantee(Guarantee):
    """Promises of a schema language."""

    STATED = "A language has a name in upper case and a media type, and its schemas state the language and their text."
    IDENTITY = (
        "Texts of one schema have one canonical form, and schemas that mean something else have another one."
    )
    VALID = (
        "is_valid, problems and encode agree about every value, and a problem has its path and its reason."
    )
    ROUND_TRIP = "What is encoded is decoded as the same value."
    DAMAGED = (
        "A damaged payload is a SchemaValidationError or a value that the schema allows, and nothing else."
    )
    SOUND = "A verdict that the reader can read everything holds for every value of the writer, and no such change is refuted."
    WITNESS = "A refutation has a value that the writer allows and the reader cannot read; every other no has its reasons."
    REFLEXIVE = "A schema is compatible with itself and with its other spellings, for every policy."
    REFERENCES = "A schema uses the schemas that it was given by name, and anything else that it refers to is an error."
    CLOSED = "No call opens a file, a socket or a process, whatever the text of the schema says."
    BOUNDED = "Every call ends soon, whatever its arguments."
    IMMUTABLE = (
        "A parsed schema never changes: threads share it, and callers may change the values that they get."
    )


G = SchemaGuarantee


class SchemaLanguageContract(Contract):
    """Tests that every schema language passes."""

    offers: ClassVar[Collection[Capability]] = frozenset()

    @pytest.fixture
    def language(self) -> SchemaLanguage:
        """Return the language."""
        raise NotImplementedError("give your test class a language fixture")

    @pytest.fixture
    def examples(self) -> Examples:
        """Return schemas, values and changes that show what the language can do."""
        raise NotImplementedError("give your test class an examples fixture")

    @staticmethod
    def parse(language: SchemaLanguage, example: Example, text: str | None = None) -> ParsedSchema:
        """Return the schema of an example, or of another text with its references."""
        references = {name: language.parse(used) for name, used in example.references.items()}
        return language.parse(example.text if text is None else text, references)

    @staticmethod
    def reads(reader: ParsedSchema, writer: ParsedSchema, payload: bytes) -> bool:
        """Return whether the reader can read a payload: it decodes it, to a value that its schema allows."""
        try:
            return reader.is_valid(reader.decode(payload, writer))
        except SchemaValidationError:
            return False

    @proves(G.STATED)
    def test_states_what_it_is(self, language: SchemaLanguage, examples: Examples) -> None:
        """Stores and payloads name the language. Usually wrong: the text of a schema is kept as it was serialized again."""
        assert isinstance(language, SchemaLanguage)
        assert language.name
        assert language.name == language.name.upper()
        assert "/" in language.content_type
        assert isinstance(language.self_describing, bool)
        for example in examples.schemas:
            for text in (example.text, *example.spellings):
                schema = self.parse(language, example, text)
                assert (schema.language, schema.text) == (language.name, text)

    @proves(G.IDENTITY)
    def test_spellings_of_a_schema_have_one_identity(
        self, language: SchemaLanguage, examples: Examples
    ) -> None:
        """The order of keys and white space do not count. Usually wrong: the canonical form is the text."""
        assert any(example.spellings for example in examples.schemas), "no example has another spelling"
        for example in examples.schemas:
            schema = self.parse(language, example)
            for text in (example.text, *example.spellings):
                assert self.parse(language, example, text).canonical == schema.canonical, text

    @proves(G.IDENTITY)
    def test_schemas_that_mean_something_else_have_another_identity(
        self, language: SchemaLanguage, examples: Examples
    ) -> None:
        """An identity that two schemas share would lose one of them. Usually wrong: a canonical form that was made for comparing
        data leaves out defaults, aliases or annotations.
        """
        assert any(example.others for example in examples.schemas), "no example has a neighbour"
        for example in examples.schemas:
            canonical = self.parse(language, example).canonical
            for text in example.others:
                assert self.parse(language, example, text).canonical != canonical, text

    @proves(G.VALID)
    def test_values_that_are_allowed_have_no_problems(
        self, language: SchemaLanguage, examples: Examples
    ) -> None:
        """The three answers agree. Usually wrong: a quick check and a complete one differ at the ends of ranges."""
        for example in examples.schemas:
            schema = self.parse(language, example)
            assert example.values, "an example without values shows nothing"
            for value in example.values:
                assert schema.is_valid(value), value
                assert not schema.problems(value), value
                assert isinstance(schema.encode(value), bytes)

    @proves(G.VALID)
    def test_values_that_are_not_allowed_have_problems(
        self, language: SchemaLanguage, examples: Examples
    ) -> None:
        """A wrong value never becomes a payload. Usually wrong: the encoder of a library writes what it can, such as a number
        that is too large or text for an unknown field.
        """
        assert any(example.invalid for example in examples.schemas), "no example has an invalid value"
        for example in examples.schemas:
            schema = self.parse(language, example)
            for value in example.invalid:
                assert not schema.is_valid(value), value
                problems = list(schema.problems(value))
                assert problems, value
                assert len(problems) <= 50
                assert all(problem.message for problem in problems)
                assert all(not problem.path or problem.path.startswith("/") for problem in problems)
                assert [p.path for p in problems] == sorted(p.path for p in problems)
                with pytest.raises(SchemaValidationError):
                    schema.encode(value)

    @proves(G.ROUND_TRIP)
    def test_what_is_encoded_is_decoded(self, language: SchemaLanguage, examples: Examples) -> None:
        """Values return with their types. Usually wrong: numbers become floats, and times lose their zone."""
        for example in examples.schemas:
            schema = self.parse(language, example)
            for value in example.values:
                payload = schema.encode(value)
                for writer in (None, schema, self.parse(language, example)):
                    found = schema.decode(payload, writer)
                    assert repr(found) == repr(value)

    @proves(G.DAMAGED)
    def test_damaged_payloads_are_errors_or_values(
        self, language: SchemaLanguage, examples: Examples
    ) -> None:
        """Payloads are cut, lengthened, and have bits changed. Usually wrong: the error of a library, such as an IndexError,
        reaches the caller; a length is trusted; what follows the value is ignored.
        """
        chance = random.Random(11)  # noqa: S311 - the same damage in every run
        for example in examples.schemas:
            schema = self.parse(language, example)
            for value in example.values:
                payload = schema.encode(value)
                for damaged in damages(chance, payload):
                    begin = time.process_time()
                    try:
                        found = schema.decode(damaged)
                    except SchemaValidationError:
                        pass
                    else:
                        assert schema.is_valid(found), damaged
                    assert time.process_time() - begin < QUICK, damaged

    @proves(G.SOUND)
    def test_a_yes_is_true(self, language: SchemaLanguage, examples: Examples) -> None:
        """Every yes between any two schemas is attacked by all values of the writer. Usually wrong: a kind of change is not
        compared at all, such as symbols of an enumeration, or types inside a list.
        """
        attacks = [(change.writer, change.reader, change.values) for change in examples.changes]
        whole = [(e.text, e.values) for e in examples.schemas if not e.references]
        attacks += [(text, reader, values) for text, values in whole for reader, _ in whole]
        attacks += [
            (c.writer, other.reader, c.values) for c in examples.changes for other in examples.changes
        ]
        found = 0
        for before, after, values in attacks:
            writer, reader = language.parse(before), language.parse(after)
            if language.compare(writer, reader, "strict"):
                found += 1
                for value in values:
                    assert self.reads(reader, writer, writer.encode(value)), (before, after, value)
        assert found, "no pair is compatible"

    @proves(G.SOUND)
    def test_the_expected_verdicts(self, language: SchemaLanguage, examples: Examples) -> None:
        """A change is decided as the examples say; undecided is never wrong. Usually wrong: the writer and the reader are
        exchanged.
        """
        assert {change.compatible for change in examples.changes} == {True, False}, "changes of both kinds"
        decided = 0
        for change in examples.changes:
            verdict = language.compare(language.parse(change.writer), language.parse(change.reader), "strict")
            wrong = Outcome.REFUTED if change.compatible else Outcome.PROVED
            assert verdict.outcome is not wrong, (change, verdict)
            decided += verdict.outcome is not Outcome.UNDECIDED
        assert decided * 2 > len(examples.changes), "most changes are undecided"

    @proves(G.WITNESS)
    def test_a_no_has_its_reasons(self, language: SchemaLanguage, examples: Examples) -> None:
        """The witness is tried. Usually wrong: it is a value of the reader, or one that the reader can read after all."""
        for change in examples.changes:
            writer, reader = language.parse(change.writer), language.parse(change.reader)
            for policy in POLICIES:
                verdict = language.compare(writer, reader, policy)
                self.check_reasons(verdict)
                if policy == "strict" and verdict.outcome is Outcome.REFUTED:
                    assert verdict.witness is not None
                    value = verdict.witness.value
                    assert writer.is_valid(value), value
                    assert not self.reads(reader, writer, writer.encode(value)), value

    @staticmethod
    def check_reasons(verdict: Verdict) -> None:
        """Assert that a verdict has reasons exactly if it is not a yes."""
        assert bool(verdict) == (verdict.outcome is Outcome.PROVED)
        assert bool(verdict.differences) != bool(verdict), verdict
        for difference in verdict.differences:
            assert difference.message
            assert difference.path
            assert difference.code == difference.code.lower()
            assert " " not in difference.code

    @proves(G.REFLEXIVE)
    def test_a_schema_reads_itself(self, language: SchemaLanguage, examples: Examples) -> None:
        """A registration that changes nothing is never refused. Usually wrong: types that contain themselves, and spellings that
        are compared as text.
        """
        for example in examples.schemas:
            schema = self.parse(language, example)
            for text in (example.text, *example.spellings):
                other = self.parse(language, example, text)
                for policy in POLICIES:
                    assert language.compare(schema, other, policy), (policy, text)

    @proves(G.REFERENCES)
    def test_references_are_those_that_were_given(self, language: SchemaLanguage, examples: Examples) -> None:
        """Nothing is found elsewhere. Usually wrong: a schema that was parsed before stays known by its name."""
        for example in examples.schemas:
            self.parse(language, example)
            if example.references:
                with pytest.raises(InvalidSchemaError):
                    language.parse(example.text)
        for text in examples.unresolved:
            with pytest.raises(InvalidSchemaError):
                language.parse(text)

    @proves(G.CLOSED)
    def test_nothing_is_opened(self, language: SchemaLanguage, examples: Examples) -> None:
        """References never lead outside. Usually wrong: the library that resolves them loads addresses by itself."""

        def use(text: str) -> None:
            try:
                schema = language.parse(text)
            except InvalidSchemaError:
                return
            schema.is_valid({})
            schema.problems({})
            language.compare(schema, schema, "strict")

        for text in (*examples.unresolved, *examples.hostile):
            use(text)  # the first time, modules may be imported
            with watched() as opened:
                use(text)
            assert not opened, text

    @proves(G.BOUNDED)
    def test_hostile_schemas_are_quick(self, language: SchemaLanguage, examples: Examples) -> None:
        """Size, depth, references that double each other, and patterns are limited before work is done. Usually wrong: only the
        length of the text is limited.
        """
        assert examples.hostile, "no example is hostile"
        for text in examples.hostile:
            with quick(text):
                schema, refusal = _parse_or_refuse(language, text)
            assert len(refusal) < 2_000
            if schema is None:
                continue
            with quick(text):
                language.compare(schema, language.parse(text), "strict")
            values: Sequence[Any] = (None, {}, [], "x" * 1_000, 0)
            for value in values:
                with quick(text):
                    schema.is_valid(value)
                    schema.problems(value)

    @proves(G.IMMUTABLE)
    def test_values_belong_to_the_caller(self, language: SchemaLanguage, examples: Examples) -> None:
        """Decoded values, defaults and documents are new ones. Usually wrong: a default list is the one in the schema."""
        for change in examples.changes:
            writer, reader = language.parse(change.writer), language.parse(change.reader)
            for value in change.values:
                payload = writer.encode(value)
                if not self.reads(reader, writer, payload):
                    continue
                expected = copy.deepcopy(reader.decode(payload, writer))
                spoil(reader.decode(payload, writer))
                assert repr(reader.decode(payload, writer)) == repr(expected)
        for example in examples.schemas:
            references = {name: language.parse(text) for name, text in example.references.items()}
            schema = language.parse(example.text, references)
            references.clear()
            canonical = schema.canonical
            for value in example.values:
                kept = copy.deepcopy(value)
                schema.encode(value)
                assert repr(value) == repr(kept)
            assert schema.canonical == canonical

    @proves(G.IMMUTABLE)
    def test_threads_share_a_schema(self, language: SchemaLanguage, examples: Examples) -> None:
        """All threads begin at once with a schema that was not used before. Usually wrong: a buffer that calls share."""
        for example in examples.schemas:
            schema = self.parse(language, example)
            expected = {repr(list(example.values))}
            gate = threading.Barrier(4)

            def use(
                schema: ParsedSchema = schema, example: Example = example, gate: threading.Barrier = gate
            ) -> set[str]:
                gate.wait(self.patience)
                return {
                    repr([schema.decode(schema.encode(value)) for value in example.values]) for _ in range(20)
                }

            with ThreadPoolExecutor(4) as pool:
                for result in [pool.submit(use) for _ in range(4)]:
                    assert result.result(self.patience) == expected


def _parse_or_refuse(language: SchemaLanguage, text: str) -> tuple[ParsedSchema | None, str]:
    try:
        return language.parse(text), ""
    except InvalidSchemaError as error:
        return None, str(error)


def damages(chance: random.Random, payload: bytes) -> Iterator[bytes]:
    """Yield damaged copies of a payload."""
    yield payload + b"\x00"
    yield payload * 2
    for _ in range(20):
        damaged = bytearray(payload)
        if damaged and chance.random() < 0.3:
            del damaged[chance.randrange(len(damaged)) :]
        if damaged:
            damaged[chance.randrange(len(damaged))] ^= 1 << chance.randrange(8)
        yield bytes(damaged)
    yield b"\xff" * 100
    yield b"\xfe\xff\xff\xff\xff\xff\xff\xff\x7f" + payload


def spoil(value: Any) -> None:
    """Change a value in place, as far as that is possible."""
    if isinstance(value, dict):
        for item in value.values():
            spoil(item)
        value["spoiled"] = True
    elif isinstance(value, list):
        for item in value:
            spoil(item)
        value.append("spoiled")


@contextmanager
def quick(text: str) -> Iterator[None]:
    """Assert that the block takes little CPU."""
    begin = time.process_time()
    yield
    taken = time.process_time() - begin
    assert taken < QUICK, f"{taken:.1f} s of CPU for {text[:200]}"


_OPENING = {"open", "socket.connect", "socket.getaddrinfo", "socket.bind", "subprocess.Popen", "os.system"}
_local = threading.local()
_installed: list[Callable[..., None]] = []


def _record(event: str, arguments: tuple[Any, ...]) -> None:
    if event in _OPENING:
        opened = getattr(_local, "opened", None)
        if opened is not None:
            opened.append((event, str(arguments)[:200]))


@contextmanager
def watched() -> Iterator[list[tuple[str, str]]]:
    """Return the files, sockets and processes that the block opens in this thread, as Python's audit events report them."""
    if not _installed:  # a hook cannot be removed
        sys.addaudithook(_record)
        _installed.append(_record)
    _local.opened = []
    try:
        yield _local.opened
    finally:
        _local.opened = None

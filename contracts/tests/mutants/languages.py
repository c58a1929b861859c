"""Schema languages with one fault each, made of Avro."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from catalogue import Mutant

from dimesh.errors import InvalidSchemaError, SchemaValidationError
from dimesh.spi.schema import PROVED, Outcome, ParsedSchema, Verdict, Witness
from dimesh_avro import AvroLanguage, AvroSchema
from dimesh_avro.comparing import sample
from dimesh_avro.reading import Readers, Source
from dimesh_avro.writing import Writer
from dimesh_contracts.schema import SchemaGuarantee as G


class Language(AvroLanguage):
    """Makes schemas of another class."""

    schema: type[AvroSchema] = AvroSchema

    def __init__(self, folder: Path) -> None:
        pass

    def parse(self, text: str, references: Mapping[str, ParsedSchema] | None = None) -> AvroSchema:
        made = super().parse(text, references)
        made.__class__ = self.schema
        return made


class TidiesTheText(Language):
    def parse(self, text: str, references: Mapping[str, ParsedSchema] | None = None) -> AvroSchema:
        made = super().parse(text, references)
        made.text = json.dumps(made.document)
        return made


class ComparesSpellings(Language):
    def parse(self, text: str, references: Mapping[str, ParsedSchema] | None = None) -> AvroSchema:
        made = super().parse(text, references)
        made.canonical = text
        return made


class ForgetsDefaults(Language):
    """As the Parsing Canonical Form of Avro does."""

    def parse(self, text: str, references: Mapping[str, ParsedSchema] | None = None) -> AvroSchema:
        made = super().parse(text, references)
        made.canonical = re.sub(r'"(default|logicalType)":[^,{}]*,', "", made.canonical)
        return made


class EncodesAnything(Language):
    class schema(AvroSchema):
        def encode(self, value: Any) -> bytes:
            try:
                return super().encode(value)
            except SchemaValidationError:
                return b""


class HasNoProblems(Language):
    class schema(AvroSchema):
        def problems(self, value: Any) -> Sequence[Any]:
            return ()


class ReadsFloats(Language):
    class schema(AvroSchema):
        def decode(self, payload: bytes, writer: ParsedSchema | None = None) -> Any:
            return _floats(super().decode(payload, writer))


def _floats(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _floats(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_floats(item) for item in value]
    return float(value) if type(value) is int else value


class IgnoresTheRest(Language):
    class schema(AvroSchema):
        def decode(self, payload: bytes, writer: ParsedSchema | None = None) -> Any:
            if writer is None:  # as libraries that read from a stream
                read = Readers().reader(self.root, self.root)
                return read(Source(payload)) if self.root.kind != "bytes" else payload
            return super().decode(payload, writer)


class SaysYes(Language):
    def compare(self, writer: ParsedSchema, reader: ParsedSchema, policy: str) -> Verdict:
        return PROVED


class ForgetsSymbols(Language):
    def compare(self, writer: ParsedSchema, reader: ParsedSchema, policy: str) -> Verdict:
        found = super().compare(writer, reader, policy)
        return PROVED if {d.code for d in found.differences} == {"symbol-removed"} else found


class ExchangesTheTwo(Language):
    def compare(self, writer: ParsedSchema, reader: ParsedSchema, policy: str) -> Verdict:
        return super().compare(reader, writer, policy)


class GuessesTheWitness(Language):
    def compare(self, writer: ParsedSchema, reader: ParsedSchema, policy: str) -> Verdict:
        found = super().compare(writer, reader, policy)
        if found.witness is None:
            return found
        assert isinstance(writer, AvroSchema)
        return Verdict(found.outcome, found.differences, Witness(sample(writer.root)))


class GivesNoReason(Language):
    def compare(self, writer: ParsedSchema, reader: ParsedSchema, policy: str) -> Verdict:
        found = super().compare(writer, reader, policy)
        return found or Verdict(Outcome.UNDECIDED)


class RefusesOtherSpellings(Language):
    def compare(self, writer: ParsedSchema, reader: ParsedSchema, policy: str) -> Verdict:
        found = super().compare(writer, reader, policy)
        if policy == "confluent" and writer.text != reader.text:
            return Verdict(Outcome.UNDECIDED, found.differences)
        return found


class RemembersNames(Language):
    def __init__(self, folder: Path) -> None:
        self._known: dict[str, ParsedSchema] = {}

    def parse(self, text: str, references: Mapping[str, ParsedSchema] | None = None) -> AvroSchema:
        self._known |= references or {}
        return super().parse(text, self._known)


class OpensNames(Language):
    def parse(self, text: str, references: Mapping[str, ParsedSchema] | None = None) -> AvroSchema:
        try:
            return super().parse(text, references)
        except InvalidSchemaError:
            try:
                with open(text.strip('"')[:100]) as file:
                    return super().parse(file.read())
            except OSError:
                pass
            raise


class CountsTooLong(Language):
    def parse(self, text: str, references: Mapping[str, ParsedSchema] | None = None) -> AvroSchema:
        end = time.process_time() + 3
        while len(text) > 100_000 and time.process_time() < end:
            pass
        return super().parse(text, references)


class SharesValues(Language):
    class schema(AvroSchema):
        def decode(self, payload: bytes, writer: ParsedSchema | None = None) -> Any:
            cache = self.__dict__.setdefault("cache", {})
            key = (payload, None if writer is None else writer.text)
            if key not in cache:
                cache[key] = super().decode(payload, writer)
            return cache[key]


class SharesABuffer(Language):
    class schema(AvroSchema):
        def encode(self, value: Any) -> bytes:
            self.last = value
            if not self.is_valid(value):
                return super().encode(value)
            time.sleep(0.0001)  # the other threads go on here
            return Writer().run(self.root, self.last)


MUTANTS = [
    Mutant("tidies-schemas", G.STATED, "keeps the text of a schema as it serialized it", TidiesTheText),
    Mutant(
        "compares-spellings", G.IDENTITY, "takes the text of a schema for its identity", ComparesSpellings
    ),
    Mutant("forgets-defaults", G.IDENTITY, "leaves defaults out of the identity", ForgetsDefaults),
    Mutant("encodes-anything", G.VALID, "encodes values that the schema does not allow", EncodesAnything),
    Mutant("no-problems", G.VALID, "finds no problem in a value that is not valid", HasNoProblems),
    Mutant("reads-floats", G.ROUND_TRIP, "reads whole numbers as floats", ReadsFloats),
    Mutant("ignores-the-rest", G.DAMAGED, "lets errors of its reader out", IgnoresTheRest),
    Mutant("says-yes-always", G.SOUND, "finds every change compatible", SaysYes),
    Mutant("forgets-symbols", G.SOUND, "does not compare the symbols of enumerations", ForgetsSymbols),
    Mutant("exchanges", G.SOUND, "exchanges the writer and the reader", ExchangesTheTwo),
    Mutant("guesses", G.WITNESS, "gives a witness that the reader can read", GuessesTheWitness),
    Mutant("no-reason", G.WITNESS, "is undecided without a reason", GivesNoReason),
    Mutant("refuses-spellings", G.REFLEXIVE, "refuses another spelling of a schema", RefusesOtherSpellings),
    Mutant("remembers-names", G.REFERENCES, "knows the references of earlier schemas", RemembersNames),
    Mutant("opens-names", G.CLOSED, "opens the file that a schema names", OpensNames),
    Mutant("takes-long", G.BOUNDED, "takes seconds for a long schema", CountsTooLong),
    Mutant("shares-values", G.IMMUTABLE, "returns a value that it returned before", SharesValues),
    Mutant("shares-buffer", G.IMMUTABLE, "encodes what another thread is encoding", SharesABuffer),
]

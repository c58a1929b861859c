"""The official test suite of JSON Schema Draft 7, through the schema language.

The suite is data beside the repository, in ``../shared/conformance`` (or in the folder that ``CONFORMANCE_DATA`` names); it is not part of
the repository.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import pytest

from dimesh.errors import InvalidSchemaError
from dimesh.registry.jsonschema.engines import Engine
from dimesh.registry.jsonschema.language import JsonSchema
from dimesh.registry.jsonschema.parsed import ParsedJsonSchema

ROOT = Path(__file__).resolve().parents[3]
HOME = Path(os.environ.get("CONFORMANCE_DATA", ROOT.parent / "shared" / "conformance")) / "json-schema-draft7"
HOST = "http://localhost:1234/"

# What the second engine decides differently from the suite; docs/reference/json-schema.md says why.
SECOND_ENGINE = Counter(
    {
        "content.json": 4,
        "date-time.json": 3,
        "ecmascript-regex.json": 32,
        "email.json": 1,
        "hostname.json": 23,
        "idn-email.json": 2,
        "idn-hostname.json": 54,
        "iri-reference.json": 2,
        "iri.json": 6,
        "json-pointer.json": 12,
        "regex.json": 1,
        "relative-json-pointer.json": 12,
        "time.json": 7,
        "uri-reference.json": 11,
        "uri-template.json": 13,
        "uri.json": 11,
    }
)


@pytest.fixture(autouse=True)
def suite() -> None:
    if HOME.is_dir():
        return
    missing = f"the official suite is not in {HOME}"
    if os.environ.get("CI") == "true":
        pytest.fail(missing)
    pytest.skip(missing)


@cache
def remotes() -> dict[str, str]:
    folder = HOME / "remotes"
    return {
        HOST + path.relative_to(folder).as_posix(): path.read_text("utf-8") for path in folder.rglob("*.json")
    }


def references(text: str, base: str, engine: Engine | None) -> dict[str, ParsedJsonSchema]:
    """Return the documents that a schema names, as a user would give them."""
    bases = {base}
    identities = re.findall(r'"\$id":\s*"([^"#]+)', text)
    for _ in identities:
        bases |= {urljoin(known, identity) for known in bases for identity in identities}
    named = {urljoin(b, r) for b in bases for r in re.findall(r'"\$ref":\s*"([^"#]+)', text)}
    return {address: remote(address, engine) for address in named & remotes().keys()}


@cache
def remote(address: str, engine: Engine | None) -> ParsedJsonSchema:
    document = json.loads(remotes()[address])
    if isinstance(document, dict):
        document = {"$id": address, **document}
    text = json.dumps(document)
    return ParsedJsonSchema(text, document, references(text, address, engine), engine=engine)


def run(engine: Engine | None) -> tuple[int, Counter[str]]:
    total, wrong = 0, Counter[str]()
    for path in sorted((HOME / "tests" / "draft7").rglob("*.json")):
        for group in json.loads(path.read_text("utf-8")):
            text = json.dumps(group["schema"])
            schema: Any
            try:
                given = references(text, "", engine)
                if engine is None:
                    schema = JsonSchema().parse(text, given)
                else:
                    schema = ParsedJsonSchema(text, json.loads(text), given, engine=engine)
            except InvalidSchemaError:
                schema = None
            for test in group["tests"]:
                total += 1
                if (
                    schema is None
                    or schema.is_valid(test["data"]) != test["valid"]
                    or bool(schema.problems(test["data"])) == test["valid"]
                ):
                    wrong[path.name] += 1
    return total, wrong


def test_the_language_passes_all_of_it() -> None:
    assert run(None) == (1_721, Counter())


@pytest.mark.slow
def test_the_second_engine_differs_only_as_documented() -> None:
    total, wrong = run("python")
    assert total == 1_721
    assert wrong == SECOND_ENGINE

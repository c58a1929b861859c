"""Answers on which three registry clients failed when they were tried: our server gives none of them.

Each recorded probe is an answer that a made-up server gave to a client's call, with whether each client could use it. What decides
is in :data:`AVOIDED`, one entry for each answer that a client fails on; our own answers to the same calls are held against it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Final

import pytest

from .client import Answer, Client
from .test_recorded_clients import RECORDED

JSON_TYPES: Final = ("application/json", "application/vnd.schemaregistry.v1+json")
LEVELS: Final = {
    "BACKWARD",
    "BACKWARD_TRANSITIVE",
    "FORWARD",
    "FORWARD_TRANSITIVE",
    "FULL",
    "FULL_TRANSITIVE",
    "NONE",
}
RECORD: Final = {"type": "record", "name": "Order", "namespace": "shop", "fields": []}
RULE: Final = {"name": "a", "kind": "CONDITION", "mode": "WRITE", "type": "CEL", "expr": "true"}


def _rules(a: Answer, member: str, known: set[str]) -> bool:
    rules = (a.json.get("ruleSet") or {}).get("domainRules") or []
    return all(rule[member] in known for rule in rules)


def _error(a: Answer) -> bool:
    """Return whether an error has the form that every client reads: a number and a text, in JSON."""
    body = a.json
    return (
        isinstance(body, dict)
        and type(body.get("error_code")) is int
        and isinstance(body.get("message"), str)
        and a.headers["content-type"].partition(";")[0] in JSON_TYPES
    )


Check = Callable[[Answer], bool]
AVOIDED: Final[dict[str, dict[str, Check]]] = {
    "getid": {
        "schemaType null": lambda a: a.json.get("schemaType", "") is not None,
        "schemaType lower avro": lambda a: a.json.get("schemaType", "AVRO").isupper(),
        "schemaType unknown THRIFT": lambda a: (
            a.json.get("schemaType", "AVRO") in ("AVRO", "JSON", "PROTOBUF")
        ),
        "rule kind unknown": lambda a: _rules(a, "kind", {"CONDITION", "TRANSFORM"}),
        "rule mode unknown": lambda a: _rules(
            a, "mode", {"UPGRADE", "DOWNGRADE", "UPDOWN", "WRITE", "READ", "WRITEREAD"}
        ),
        "schema is object": lambda a: isinstance(a.json["schema"], str),
        "no schema": lambda a: "schema" in a.json,
        "200 empty body": lambda a: bool(a.text),
        "200 not json": lambda a: isinstance(a.json, dict),
    },
    "register": {
        "register id string": lambda a: type(a.json["id"]) is int,
    },
    "register config": {
        "register config 200 null level": lambda a: a.status == 404 or a.json["compatibilityLevel"] in LEVELS,
        "register config 403": lambda a: a.status in (200, 404),
        "register config 404, PUT config 404/405": lambda a: a.status in (200, 404),
    },
    "config": {
        "config only compatibility": lambda a: "compatibilityLevel" in a.json,
        "config level empty": lambda a: bool(a.json["compatibilityLevel"]),
        "config level unknown": lambda a: a.json["compatibilityLevel"] in LEVELS,
        "config empty {}": lambda a: bool(a.json),
    },
    "setconfig": {"PUT config → empty 204": lambda a: a.status == 200 and a.json["compatibility"] in LEVELS},
    "delconfig": {"DELETE config → empty 204": lambda a: a.status == 200 and isinstance(a.json, dict)},
    "mode": {
        "mode FORWARD": lambda a: a.json["mode"] in ("READWRITE", "READONLY", "IMPORT"),
        "mode READONLY_OVERRIDE": lambda a: a.json["mode"] in ("READWRITE", "READONLY", "IMPORT"),
        "mode {}": lambda a: "mode" in a.json,
    },
    "compat": {
        "compat messages string": lambda a: isinstance(a.json.get("messages", []), list),
        "compat messages objects": lambda a: all(isinstance(m, str) for m in a.json.get("messages", [])),
        "compat {}": lambda a: "is_compatible" in a.json,
    },
    "types": {"types extra": lambda a: set(a.json) <= {"AVRO", "JSON", "PROTOBUF"}},
    "avroser": {
        # The serializer goes on after an empty list or an error 404 in JSON.
        f"associations {what}": lambda a: a.status == 200 and a.json == []
        for what in ("405", "501", "500", "403", "200 null", "200 two", "200 empty body")
    },
}


def failing() -> set[tuple[str, str]]:
    """Return the label and the call of each recorded answer that some client fails on, without errors, which are to fail."""
    return {
        (label, call)
        for label, call, _, results in RECORDED.get("probes", ())
        if not label.startswith("err ") and not all(result[0] for result in results.values())
    }


@pytest.mark.skipif(not RECORDED["requests"], reason="the recorded vectors are not there")
def test_every_answer_that_a_client_fails_on_is_avoided() -> None:
    kinds = {label: call.partition(" ")[0] for call, checks in AVOIDED.items() for label in checks}
    assert {label for label, _ in failing()} == set(kinds)
    assert all(kinds[label] == call for label, call in failing())


async def _answers(call: Client) -> dict[str, list[Answer]]:
    """Return what our server answers to the calls of the probes, in its plain and its less usual states."""
    path, avro = "/subjects/orders-value", {"schema": json.dumps(RECORD)}
    found: dict[str, list[Answer]] = {call: [] for call in AVOIDED}
    found["config"].append(await call("GET", "/config"))
    found["mode"].append(await call("GET", "/mode"))
    found["register config"].append(await call("GET", "/config/orders-value"))
    found["register"].append(await call("POST", f"{path}/versions", avro))
    found["register"].append(await call("POST", f"{path}/versions", avro))  # once more
    rich = {
        "schema": json.dumps({**RECORD, "doc": "with everything"}),
        "metadata": {"properties": {"owner": "shop"}, "tags": {"**.name": ["PII"]}, "sensitive": ["x"]},
        "ruleSet": {"domainRules": [RULE]},
    }
    found["register"].append(await call("POST", f"{path}/versions", rich))
    text = {"schema": json.dumps({"type": "object"}), "schemaType": "JSON"}
    found["register"].append(await call("POST", "/subjects/json-value/versions", text))
    found["getid"] += [await call("GET", f"/schemas/ids/{number}") for number in (1, 2, 3)]
    for level in sorted(LEVELS):
        found["setconfig"].append(await call("PUT", "/config/orders-value", {"compatibility": level}))
        found["register config"].append(await call("GET", "/config/orders-value"))
        found["config"].append(await call("GET", "/config/orders-value"))
    found["delconfig"].append(await call("DELETE", "/config/orders-value"))
    found["config"].append(await call("GET", "/config/orders-value?defaultToGlobal=true"))
    for mode in ("READONLY", "IMPORT", "READWRITE"):
        await call("PUT", "/mode/json-value?force=true", {"mode": mode})
        found["mode"].append(await call("GET", "/mode/json-value"))
    check = "/compatibility/subjects/json-value/versions/latest"
    for schema in ({"type": "object"}, {"type": "array"}):
        for query in ("", "?verbose=true"):
            body = {"schema": json.dumps(schema), "schemaType": "JSON"}
            found["compat"].append(await call("POST", check + query, body))
    found["types"].append(await call("GET", "/schemas/types"))
    found["avroser"].append(await call("GET", "/associations/resources/-/orders?resourceType=topic"))
    return found


async def test_our_answers_are_those_that_every_client_can_use() -> None:
    found = await _answers(Client())
    assert all(found.values())
    wrong = [
        f"{label}: {answer}"
        for call, checks in AVOIDED.items()
        for label, check in checks.items()
        for answer in found[call]
        if not check(answer)
    ]
    assert not wrong, "\n".join(wrong)


async def test_a_wrong_answer_is_found() -> None:
    """Each check fails for the recorded answer that it is about."""
    blind = []
    for label, call, rules, results in RECORDED.get("probes", ()):
        checks = {name: check for checks in AVOIDED.values() for name, check in checks.items()}
        if (label, call) not in failing():
            continue
        part = "/associations" if call == "avroser" else rules[0]["match"]
        rule = next(rule for rule in rules if rule["match"] == part)
        answer = rule["answer"]
        text = answer if isinstance(answer, str) else json.dumps(answer)
        if label == "register id string":
            rule = next(rule for rule in rules if rule["match"] == "/versions")
            text = json.dumps(rule["answer"])
        try:
            passed = checks[label](
                Answer(rule.get("status", 200), {"content-type": rule.get("ctype", "")}, text)
            )
        except (ValueError, KeyError, TypeError, AttributeError):
            passed = False
        # A client that finds no level sets one, which a server must let it do.
        if passed and label != "register config 404, PUT config 404/405":
            blind.append((label, results))
    assert not blind


async def test_errors_have_the_form_that_every_client_reads() -> None:
    call = Client()
    errors = [
        await call("GET", "/schemas/ids/77"),
        await call("POST", "/subjects/none", {"schema": json.dumps(RECORD)}),
        await call("GET", "/subjects/none/versions"),
        await call("GET", "/nothing/here"),
        await call("DELETE", "/schemas/types"),
        await call("POST", "/subjects/a/versions", b"{"),
        await call("POST", "/subjects/a/versions", {"schema": "!"}),
        await call("PUT", "/config", {"compatibility": "SOMETIMES"}),
    ]
    assert all(error.status >= 400 and _error(error) for error in errors), errors

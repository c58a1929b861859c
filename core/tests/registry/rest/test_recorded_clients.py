"""Requests that three registry clients really sent, replayed against our server.

The recorded answers are those of an independent fake, which differs from Confluent's server in what ``DIFFERS`` lists.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any, Final

import pytest

from .client import Client

ROOT: Final = Path(__file__).resolve().parents[4]
HOME: Final = Path(os.environ.get("CONFORMANCE_DATA", ROOT.parent / "shared" / "conformance"))
FILE: Final = HOME / "registry-vectors.json"
LISTS: Final = {
    # The fake has one sequence of ids for all contexts, and metadata is no part of its identities.
    "subjects by id",
    "versions by id",
    "usages by id",
    "referencedby",
    # Here nothing is deleted, so a list of what is deleted is empty; and nothing is deleted before it was deleted softly.
    "versions deleted",
    "subjects prefix",
    "versions",
    "basic auth",
    "bearer static",
    "all schemas",
    "auth",
    "base path",
    "raw params",
}
"""Requests whose lists differ."""
DIFFERS: Final[tuple[tuple[str, int, int | None], ...]] = (
    ("GET /schemas/types", 200, None),
    ("GET /subjects/meta-value/metadata", 200, None),
    ("GET /associations", 200, None),
    ("POST /associations", 404, 404),
    ("DELETE /associations", 405, 405),
    (r"PUT /config/\S+ .*(alias|compatibilityGroup)", 200, None),
    ("DELETE /config null", 200, None),
    ("DELETE /subjects/go-value/versions/latest", 200, None),
    ("DELETE /contexts/.dev", 422, 42211),
    ("DELETE /subjects/go-value/versions/1", 422, 42206),
    ("GET /subjects//versions/latest", 422, 42208),
    (r"POST /subjects/a%3Fb%23c%0A", 422, 42208),  # a line break is no part of a name here
    ("POST .*register id.version", 422, 42205),
    (".* config subject get .none set.", 404, 40408),
    (".* config subject none", 404, 40408),
    ("GET /mode/orders-value null mode subject get", 404, 40409),
    (".* delete subject soft twice", 404, 40404),
    (".* delete subject hard w/o soft", 404, 40405),
    ("GET /config/js-value null register again", 200, None),  # this recording's server always answered 404
    (".* config subject get$", 200, None),
    (
        "POST /subjects/pl-value.* pb de use.latest, lookup 40403",
        200,
        None,
    ),  # the recording's server was told to
)
OTHER_LANGUAGE: Final = re.compile("json with reference")
"""What depends on the references of JSON Schema; its own tests show them."""
SAME: Final = ("subject", "version", "schema", "references", "is_compatible", "error_code")


def recorded() -> dict[str, Any]:
    if FILE.exists():
        found: dict[str, Any] = json.loads(FILE.read_text())
        return found
    if os.environ.get("CI") == "true":
        raise FileNotFoundError(FILE)
    return {"requests": {}}


RECORDED: Final = recorded()


@pytest.mark.skipif(bool(RECORDED["requests"]), reason="the recorded vectors are there")
def test_recorded_vectors() -> None:
    pytest.skip(f"{FILE} is missing: no recorded request is replayed")


@pytest.mark.parametrize("client", RECORDED["requests"])
async def test_every_recorded_request_gets_what_its_client_needs(client: str) -> None:
    call = Client()
    # The recording changes the language of this subject, which the fake never refuses.
    await call("PUT", "/config/shop%2Ftypes%2Fmoney.proto", {"compatibility": "NONE"})
    if "more flows" in client:  # this subject was there before the recording began
        fields = [{"name": "u", "type": "long"}]
        schema = {"type": "record", "name": "Money", "namespace": "shop", "fields": fields}
        await call("POST", "/subjects/money/versions", {"schema": json.dumps(schema, separators=(",", ":"))})
    ours: dict[str, str] = {}
    wrong: list[str] = []
    for label, method, path, profile, body, status, _, answer in RECORDED["requests"][client]:
        if OTHER_LANGUAGE.match(label):
            continue
        # Ids and GUIDs are opaque: ours stand for those of the fake.
        sent = re.sub(r"(?<=/schemas/)(ids|guids)/([\w-]+)", lambda m: ours.get(m[0], m[0]), path)
        got = await call(method, sent, body, RECORDED["header_profiles"].get(profile))
        line = f"{method} {path} {json.dumps(body)} {label}"
        for pattern, other, code in DIFFERS:
            if re.match(pattern, line):
                if got.status != other or (code is not None and got.code != code):
                    wrong.append(f"{line}: {got}")
                break
        else:
            if got.status != status or not _same(label, path, got.text, answer):
                wrong.append(f"{line}: {got}\n  recorded: {status} {json.dumps(answer)}")
        if got.status == status == 200 and isinstance(answer, dict):
            for kind, member in (("ids", "id"), ("guids", "guid")):
                if answer.get(member) and got.json.get(member):
                    ours.setdefault(f"{kind}/{answer[member]}", f"{kind}/{got.json[member]}")
    assert not wrong, "\n".join(wrong)


def _same(label: str, path: str, text: str, answer: Any) -> bool:
    if path.partition("?")[0].endswith("/schema"):
        return json.loads(text)["type"] == "record"  # the bare text, which the fake wraps
    if answer is None:
        return text in ("", "[]")
    got = json.loads(text)
    if isinstance(answer, dict):
        # Any subject and version may stand for a GUID.
        members = SAME[2:] if "/guids/" in path else SAME
        same = all(got.get(name) == answer[name] for name in members if name in answer)
        return same and (answer.keys() <= got.keys() or "error_code" in answer)
    if isinstance(answer, list):
        return isinstance(got, list) and (label in LISTS or got == answer)
    return isinstance(got, dict) and "error_code" in got if isinstance(answer, str) else bool(got == answer)

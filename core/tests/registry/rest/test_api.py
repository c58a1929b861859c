"""The REST API of the registry: what Confluent's server answers where clients depend on it."""

from __future__ import annotations

import base64
import json
import time
from typing import Any

import pytest

from dimesh.registry.rest import Access
from dimesh.secrets import Secret

from .client import Answer, Client


def number(**keywords: Any) -> dict[str, Any]:
    schema = {"type": "object", "properties": {"n": {"type": "integer", **keywords}}, "required": ["n"]}
    return {"schema": json.dumps(schema), "schemaType": "JSON"}


@pytest.fixture
def call() -> Client:
    return Client()


async def codes(call: Client, *requests: tuple[Any, ...]) -> list[tuple[int, Any]]:
    answers = [await call(*request) for request in requests]
    return [
        (one.status, one.json.get("error_code") if isinstance(one.json, dict) else None) for one in answers
    ]


async def test_register_look_up_and_read(call: Client) -> None:
    registered = (await call("POST", "/subjects/orders/versions", number())).json
    assert (registered["id"], registered["version"], registered["schemaType"]) == (1, 1, "JSON")
    again = {"schema": json.dumps(json.loads(number()["schema"]), indent=2), "schemaType": "JSON"}
    assert (await call("POST", "/subjects/orders/versions", again)).json["version"] == 1
    assert (await call("POST", "/subjects/orders", again)).json == {"subject": "orders", **registered}
    assert abs(registered["ts"] / 1_000 - time.time()) < 60
    assert (await call("GET", "/subjects/orders/versions/latest")).json["guid"] == registered["guid"]
    assert (await call("GET", "/schemas/ids/1/schema")).text == number()["schema"]
    assert (await call("GET", f"/schemas/guids/{registered['guid'].upper()}/ids")).json == [
        {"context": ".", "id": 1}
    ]
    assert (await call("GET", "/schemas")).json == [{"subject": "orders", **registered}]


async def test_an_incompatible_schema_is_a_conflict_with_reasons(call: Client) -> None:
    await call("POST", "/subjects/orders/versions", number())
    refused = await call("POST", "/subjects/orders/versions", number(minimum=1))
    assert (refused.status, refused.code) == (409, 40901)
    path = "/compatibility/subjects/orders/versions"
    verdict = (await call("POST", f"{path}/latest?verbose=True", number(minimum=1))).json
    assert verdict["is_compatible"] is False
    assert "minimum" in verdict["messages"][0]
    assert (await call("POST", f"{path}?verbose=TRUE", number())).json == {
        "is_compatible": True,
        "messages": [],
    }
    assert (await call("POST", path, number(minimum=1))).json == {"is_compatible": False}
    # An unknown subject has nothing to be compatible with; an invalid schema has a reason, too.
    unknown = "/compatibility/subjects/nope/versions"
    assert (await call("POST", f"{unknown}/latest", number())).json == {"is_compatible": True}
    invalid = {"schema": '{"type": 1}', "schemaType": "JSON"}
    assert (await call("POST", f"{path}?verbose=true", invalid)).json["is_compatible"] is False
    assert await codes(call, ("POST", f"{unknown}/3", number()), ("POST", path, invalid)) == [
        (404, 40402),
        (422, 42201),
    ]


async def test_each_thing_that_is_not_there_has_its_code(call: Client) -> None:
    await call("POST", "/subjects/orders/versions", number())
    assert await codes(
        call,
        ("GET", "/subjects/nope/versions"),
        ("GET", "/subjects/nope/versions/latest"),
        ("POST", "/subjects/nope", number()),
        ("POST", "/subjects/orders", number(minimum=1)),
        ("GET", "/subjects/orders/versions/2"),
        ("GET", "/subjects/orders/versions/0"),
        ("GET", "/subjects/orders/versions/99999999999999999999"),
        ("GET", "/schemas/ids/2"),
        ("GET", "/schemas/ids/x"),
        ("GET", "/schemas/guids/x"),
        ("GET", "/config/orders"),
        ("GET", "/mode/orders"),
        ("GET", "/nothing/here"),
        ("PATCH", "/subjects/orders"),
        ("GET", "/subjects/%ff/versions"),
    ) == [
        (404, 40401),
        (404, 40401),
        (404, 40401),
        (404, 40403),
        (404, 40402),
        (422, 42202),
        (422, 42202),
        (404, 40403),
        (404, 40403),
        (404, 40403),
        (404, 40408),
        (404, 40409),
        (404, 404),
        (405, 405),
        (404, 404),
    ]


async def test_deleting_is_soft_first(call: Client) -> None:
    await call("POST", "/subjects/orders/versions", number())
    reference = {"name": "n.json", "subject": "orders", "version": -1}
    await call("POST", "/subjects/bills/versions", {"schema": '{"x": 1}', "references": [reference]})
    assert (await call("GET", "/subjects/bills/versions/1")).json["references"] == [
        {**reference, "version": 1}
    ]
    assert (await call("GET", "/subjects/orders/versions/-1/referencedby?limit=-1")).json == [2]
    assert await codes(
        call,
        ("DELETE", "/subjects/orders"),
        ("DELETE", "/subjects/orders/versions/1"),
        ("DELETE", "/subjects/bills?permanent=true"),
        ("DELETE", "/subjects/bills/versions/1?permanent=true"),
        ("DELETE", "/subjects/bills/versions/7"),
    ) == [(422, 42206), (422, 42206), (404, 40405), (404, 40407), (404, 40402)]
    assert (await call("DELETE", "/subjects/bills/versions/latest")).json == 1
    assert await codes(call, ("DELETE", "/subjects/bills/versions/1"), ("DELETE", "/subjects/bills")) == [
        (404, 40406),
        (404, 40404),
    ]
    # What is soft-deleted stays readable by its id.
    assert (await call("GET", "/schemas/ids/2")).status == 200
    assert (await call("GET", "/subjects")).json == ["orders"]
    assert (await call("GET", "/subjects?deleted=True")).json == ["bills", "orders"]
    assert (await call("GET", "/subjects?deletedOnly=true&limit=5")).json == ["bills"]
    assert (await call("GET", "/subjects/bills/versions?deletedAsNegative=true")).json == [-1]
    assert (await call("DELETE", "/subjects/bills?permanent=true")).json == [1]
    assert (await call("GET", "/schemas/ids/2")).code == 40403


async def test_configuration_and_modes(call: Client) -> None:
    assert (await call("GET", "/config")).json == {"compatibilityLevel": "BACKWARD"}
    rich = {
        "compatibility": "full",
        "compatibilityPolicy": "LENIENT",
        "compatibilityGroup": "g",
        "alias": None,
    }
    changed = {"compatibility": "FULL", "compatibilityPolicy": "LENIENT", "compatibilityGroup": "g"}
    assert (await call("PUT", "/config/orders", rich)).json == changed
    shown = {"compatibilityLevel": "FULL", "compatibilityPolicy": "LENIENT", "compatibilityGroup": "g"}
    assert (await call("GET", "/config/orders")).json == shown
    assert (await call("PUT", "/config", {"compatibility": "NONE"})).json == {"compatibility": "NONE"}
    assert (await call("GET", "/config/other?defaultToGlobal=True")).json == {"compatibilityLevel": "NONE"}
    assert (await call("DELETE", "/config/orders")).json == {**shown, "compatibility": "FULL"}
    assert await codes(
        call,
        ("PUT", "/config", {"compatibility": "SIDEWAYS"}),
        ("PUT", "/config", {"compatibilityPolicy": "odd"}),
        ("PUT", "/config", {}),
        ("DELETE", "/config/orders"),
        ("PUT", "/mode", {"mode": "ODD"}),
        ("PUT", "/mode", {}),
    ) == [(422, 42203), (422, 42203), (422, 42203), (404, 40401), (422, 42204), (422, 42204)]
    await call("PUT", "/mode/orders", {"mode": "READONLY"})
    assert (await call("GET", "/mode/orders")).json == {"mode": "READONLY"}
    assert await codes(call, ("POST", "/subjects/orders/versions", number())) == [(422, 42205)]
    assert (await call("DELETE", "/mode/orders")).json == {"mode": "READONLY"}
    await call("POST", "/subjects/orders/versions", number())
    assert await codes(
        call,
        ("PUT", "/mode/orders", {"mode": "IMPORT"}),
        ("POST", "/subjects/orders/versions", {**number(), "id": 77, "version": 5}),
    ) == [(422, 42205), (422, 42205)]
    await call("PUT", "/mode/orders?force=True", {"mode": "IMPORT"})
    imported = (
        await call("POST", "/subjects/orders/versions", {**number(minimum=1), "id": 77, "version": 5})
    ).json
    assert (imported["id"], imported["version"]) == (77, 5)


async def test_contexts_in_paths_and_names(call: Client) -> None:
    await call("POST", "/subjects/a/versions", number())
    await call("POST", "/contexts/.dev/subjects/orders/versions", number(minimum=1))
    await call("POST", "/contexts/dev/subjects/%3A.dev%3Aorders/versions", number(minimum=1))
    assert (await call("GET", "/subjects")).json == [":.dev:orders", "a"]
    assert (await call("GET", "/subjects?subjectPrefix=")).json == ["a"]
    assert (await call("GET", "/subjects?subjectPrefix=:*:o")).json == [":.dev:orders"]
    assert (await call("GET", "/contexts/.dev/subjects?subjectPrefix=ord")).json == [":.dev:orders"]
    assert (await call("GET", "/contexts/:.dev:/subjects")).json == [":.dev:orders"]
    assert (await call("GET", "/subjects/:.:a/versions")).json == [1]
    assert (await call("GET", "/contexts?contextPrefix=.d")).json == [".dev"]
    # An id without a context is one of the default context; a subject chooses the context, and never hides a schema.
    for path in ("/contexts/.dev/schemas/ids/1", "/schemas/ids/1?subject=:.dev:x"):
        assert (await call("GET", path)).json["subject"] == ":.dev:orders"
    assert (await call("GET", "/schemas/ids/1?subject=unrelated")).json["subject"] == "a"
    await call("PUT", "/contexts/.dev/config", {"compatibility": "FORWARD"})
    assert (await call("GET", "/config/:.dev:")).json == {"compatibilityLevel": "FORWARD"}
    assert (await call("GET", "/config/:.dev:orders?defaultToGlobal=true")).json == {
        "compatibilityLevel": "FORWARD"
    }
    assert await codes(call, ("DELETE", "/contexts/.dev"), ("GET", "/subjects/:.dev:/versions")) == [
        (422, 42211),
        (422, 42208),
    ]
    await call("DELETE", "/contexts/.dev/subjects/orders")
    await call("DELETE", "/contexts/.dev/subjects/orders?permanent=true")
    assert (await call("DELETE", "/contexts/.dev")).status == 204
    assert await codes(call, ("GET", "/contexts/.dev/config")) == [(404, 40408)]


@pytest.mark.parametrize("name", ["shop%2Ftypes%2Fmoney.proto", "a+b", "%20%C3%A9%25", ":x:y", "a%2F..%2Fb"])
async def test_paths_are_split_before_they_are_decoded(call: Client, name: str) -> None:
    from urllib.parse import unquote

    assert (await call("POST", f"/subjects/{name}/versions", number())).status == 200
    for path in (
        f"/subjects/{name}/versions",
        f"//subjects/{name}/versions/",
        f"/registry/subjects/{name}/versions",
    ):
        root = "/registry" if path.startswith("/registry") else ""
        assert (await call("GET", path.removeprefix(root), root=root)).json == [1]
    assert (await call("GET", "/subjects/")).json == [unquote(name)]


@pytest.mark.parametrize("name", ["%2E", ".", "..", "%2e%2e", "a%0Ab", "a%00", "x" * 1_025, ":.:", ":.dev:"])
async def test_a_name_that_is_no_subject_is_refused(call: Client, name: str) -> None:
    assert (await call("POST", f"/subjects/{name}/versions", number())).code == 42208
    assert (await call("GET", "/subjects?deleted=true")).json == []


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"{", 400, 400),
        (b"[]", 400, 400),
        (b"", 422, 42201),
        (b'{"schema": null}', 422, 42201),
        (b'{"schema": {"type": "object"}, "schemaType": "JSON"}', 422, 42201),
        (b'{"schema": "!"}', 422, 42201),
        (b'{"schema": "x", "schemaType": 1}', 422, 42201),
        (b'{"schema": "x", "references": 1}', 422, 42201),
        (b'{"schema": "x", "references": [{"name": "a", "subject": "", "version": 1}]}', 422, 42201),
        (b'{"schema": "x", "references": [{"name": "a", "subject": "b", "version": true}]}', 422, 42201),
        (b'{"schema": "x", "references": [{"name": "a", "subject": "nope", "version": -1}]}', 422, 42201),
        (b'{"schema": "x", "metadata": 1}', 422, 42201),
        (b'{"schema": "x", "version": "1"}', 422, 42201),
        (b'{"schema": "\\ud800"}', 400, 400),
        (b'{"schema": "x", "schemaType": null, "references": null, "metadata": null, "other": 1, "id": -1}', 200, None),
    ],
)  # fmt: skip
async def test_bodies_that_are_wrong_say_so_and_unknown_members_do_not_count(
    call: Client, body: bytes, status: int, code: int | None
) -> None:
    answer = await call("POST", "/subjects/a/versions", body)
    assert (answer.status, answer.json.get("error_code")) == (status, code)


async def test_a_body_is_limited_while_it_is_read() -> None:
    call = Client(max_body=5_000)
    assert (await call("POST", "/subjects/a/versions", b" " * 5_001)).code == 413
    declared = {"content-length": "5001"}
    assert (await call("POST", "/subjects/a/versions", b"", declared)).code == 413


async def test_metadata_is_found_by_its_properties_and_tags_make_a_version(call: Client) -> None:
    body = {**number(), "metadata": {"properties": {"owner": "team a"}, "tags": None}}
    await call("POST", "/subjects/a/versions", body)
    for value in ("team%20a", "team+a", "team%2520a"):  # one client encodes twice
        found = await call("GET", f"/subjects/a/metadata?key=owner&value={value}")
        assert found.json["metadata"] == {"properties": {"owner": "team a"}}
    assert (await call("GET", "/subjects/a/metadata?key=owner&value=b")).code == 40403
    tags = {"tagsToAdd": [{"schemaEntity": {"entityPath": "n", "entityType": "sr_field"}, "tags": ["PII"]}]}
    assert (await call("POST", "/subjects/a/versions/latest/tags", tags)).json["version"] == 2
    assert (await call("GET", "/subjects/a/versions/2")).json["metadata"]["tags"] == {"n": ["PII"]}


async def test_what_newer_clients_ask_for_is_answered(call: Client) -> None:
    for path in ("/associations/resources/-/t?resourceType=topic", "/associations/subjects/t-value"):
        assert (await call("GET", path)).json == []
    assert (await call("GET", "/schemas/types")).json == ["AVRO", "JSON", "PROTOBUF"]
    assert {
        (await call("GET", f"/v1/metadata/{part}")).status for part in ("id", "version", "deployment")
    } == {200}
    head = await call("HEAD", "/subjects")
    assert (head.status, head.text, head.headers["content-length"]) == (200, "", "2")


def basic(login: str) -> dict[str, str]:
    return {"Authorization": f"Basic {base64.b64encode(login.encode()).decode()}"}


async def test_only_known_users_and_tokens_are_accepted() -> None:
    call = Client(Access({"u": Secret("p:é"), "v": Secret("q")}, [Secret("tok")]))

    async def answered(headers: dict[str, str]) -> Answer:
        return await call("GET", "/subjects", headers=headers)

    for good in (basic("u:p:é"), basic("v:q"), {"Authorization": "bearer  tok"}):
        assert (await answered(good)).status == 200
    for bad in (
        {},
        basic("u:q"),
        basic("w:q"),
        basic("u"),
        {"Authorization": "Basic é"},
        {"Authorization": "Basic"},
        {"Authorization": "Bearer "},
        {"Authorization": "Bearer tok2"},
        {"Authorization": "Digest tok"},
    ):
        refused = await answered(bad)
        assert (refused.status, refused.code) == (401, 401), bad
        assert "www-authenticate" in refused.headers
    # Who is not accepted does not learn which paths there are.
    assert (await call("GET", "/nothing")).status == 401


async def test_the_schema_of_an_id_is_kept_until_something_is_written(call: Client) -> None:
    for _ in range(2):
        assert (await call("GET", "/schemas/ids/1")).code == 40403  # what is not there is not kept
    await call("POST", "/subjects/a/versions", number())
    first = await call("GET", "/schemas/ids/1")
    assert first.json["subject"] == "a"
    # Behind the back of the server, as another process would do it: the answer is still kept.
    await call.registry.delete_subject("a")
    await call.registry.delete_subject("a", permanent=True)
    await call("POST", "/subjects/a", number())  # a look-up writes nothing
    assert await call("GET", "/schemas/ids/1") == first
    await call("PUT", "/config", {"compatibility": "FULL"})
    assert (await call("GET", "/schemas/ids/1")).code == 40403


async def test_a_version_number_compares_and_sets(call: Client) -> None:
    """A writer states the number that must be the next one: the second of two writers is refused."""
    path = "/subjects/s/versions"
    assert (await call("POST", path, {**number(), "version": 1})).json["version"] == 1
    other = {"schema": '{"title": "other"}', "schemaType": "JSON"}
    refused = await call("POST", path, {**other, "version": 1})
    assert (refused.status, refused.code) == (422, 42201)
    assert (await call("GET", path)).json == [1]

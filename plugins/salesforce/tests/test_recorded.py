"""Answers of Salesforce, field by field (sources: the published protocol, its documentation, recordings)."""

from __future__ import annotations

import io
import json
from collections.abc import AsyncIterator
from typing import Any

import fastavro
import grpc
import grpc.aio
import httpx
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorSet

from dimesh_contracts.waiting import deadline
from dimesh_salesforce import api
from dimesh_salesforce.sandbox import ACCESS_TOKEN, CLIENT_ID, SalesforceSandbox
from dimesh_salesforce.sandbox.org import ORGANIZATION
from dimesh_salesforce.sandbox.table import with_suffix

METADATA = (("accesstoken", ACCESS_TOKEN), ("instanceurl", "https://x.example"), ("tenantid", ORGANIZATION))


def test_the_messages_are_those_of_the_proto() -> None:
    from dimesh_salesforce.api.__main__ import HERE, compiled

    made, kept = (
        FileDescriptorSet.FromString(compiled()),
        FileDescriptorSet.FromString((HERE / "descriptors.binpb").read_bytes()),
    )
    assert made == kept
    request = api.FetchRequest(topic_name="t", replay_preset=api.CUSTOM, replay_id=b"\x01", num_requested=3)
    assert request.SerializeToString() == b"\n\x01t\x10\x02\x1a\x01\x01 \x03"


@pytest.fixture
async def channel(sandbox: SalesforceSandbox) -> AsyncIterator[Any]:
    async with grpc.aio.insecure_channel(sandbox.grpc_target) as made:
        yield made


def subscribe(channel: Any, metadata: Any = METADATA) -> Any:
    method = channel.stream_stream(
        "/eventbus.v1.PubSub/Subscribe", api.FetchRequest.SerializeToString, api.FetchResponse.FromString
    )
    return method(metadata=metadata)


async def to_the_end(call: Any) -> None:
    while await call.read() is not grpc.aio.EOF:
        pass


async def failure(call: Any, request: Any) -> tuple[Any, str, dict[str, str]]:
    await call.write(request)
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await to_the_end(call)
    return failed.value.code(), failed.value.details(), dict(failed.value.trailing_metadata())


@pytest.mark.parametrize(
    ("request_", "status", "code"),
    [
        ({"topic_name": "/data/NobodyChangeEvent", "num_requested": 1}, "NOT_FOUND", "topic.not.found"),
        ({"topic_name": "/data/accountchangeevent", "num_requested": 1}, "NOT_FOUND", "topic.not.found"),
        ({"topic_name": "", "num_requested": 1}, "INVALID_ARGUMENT", "topic.validation.empty"),
        (
            {"topic_name": "/data/AccountChangeEvent", "num_requested": 0},
            "INVALID_ARGUMENT",
            "subscription.fetch.requested.events.invalid",
        ),
        (
            {"topic_name": "/data/AccountChangeEvent", "num_requested": 1, "replay_preset": 2},
            "INVALID_ARGUMENT",
            "subscription.fetch.replayid.validation.failed",
        ),
        (
            {
                "topic_name": "/data/AccountChangeEvent",
                "num_requested": 1,
                "replay_preset": 2,
                "replay_id": b"garbage",
            },
            "INVALID_ARGUMENT",
            "subscription.fetch.replayid.corrupted",
        ),
        (
            {"topic_name": "/data/AccountChangeEvent", "num_requested": 1, "auth_refresh": "x"},
            "INVALID_ARGUMENT",
            "service.auth.refresh.invalid",
        ),
    ],
)
async def test_how_a_subscription_is_refused(
    channel: Any, request_: dict[str, Any], status: str, code: str
) -> None:
    async with deadline():
        found, details, trailers = await failure(subscribe(channel), api.FetchRequest(**request_))
    assert found.name == status
    assert trailers["error-code"] == f"sfdc.platform.eventbus.grpc.{code}"
    assert trailers["rpc-id"] in details
    assert "rpcId: " in details


async def test_wrong_headers_and_tokens(channel: Any) -> None:
    request = api.FetchRequest(topic_name="/data/AccountChangeEvent", num_requested=1)
    async with deadline():
        code, _, trailers = await failure(subscribe(channel, METADATA[:2]), request)
        assert code is grpc.StatusCode.UNAUTHENTICATED
        assert trailers["error-code"].endswith("service.auth.headers.invalid")
        wrong = (("accesstoken", "wrong"), *METADATA[1:])
        code, _, trailers = await failure(subscribe(channel, wrong), request)
        assert code is grpc.StatusCode.UNAUTHENTICATED
        assert trailers["error-code"].endswith("service.auth.error")


async def test_requests_add_up_to_a_hundred(sandbox: SalesforceSandbox, channel: Any) -> None:
    call = subscribe(channel)
    topic = "/data/AccountChangeEvent"
    async with deadline():
        await call.write(api.FetchRequest(topic_name=topic, num_requested=80))
        first = await call.read()
        assert (len(first.events), first.pending_num_requested) == (0, 80)
        assert first.latest_replay_id
        await call.write(api.FetchRequest(topic_name=topic, num_requested=80))
        while (await call.read()).pending_num_requested != 100:
            pass
        for n in range(130):
            sandbox.org.create("Account", {"Name": f"{n}"})
        count = 0
        while count < 100:
            response = await call.read()
            count += len(response.events)
        assert (count, response.pending_num_requested) == (100, 0)
        assert response.latest_replay_id == response.events[-1].replay_id
        await call.write(api.FetchRequest(topic_name="/data/ContactChangeEvent", num_requested=1))
        with pytest.raises(grpc.aio.AioRpcError, match="topic"):
            await to_the_end(call)


async def test_a_stream_that_asks_for_nothing_is_closed(sandbox: SalesforceSandbox, channel: Any) -> None:
    sandbox.pubsub.faults.idle_close = 0.1
    call = subscribe(channel)
    async with deadline():
        await call.write(api.FetchRequest(topic_name="/data/AccountChangeEvent", num_requested=1))
        await call.read()
        sandbox.org.create("Account", {"Name": "a"})
        while await call.read() is not grpc.aio.EOF:
            pass


async def test_topics_and_schemas(sandbox: SalesforceSandbox, channel: Any) -> None:
    topic = channel.unary_unary(
        "/eventbus.v1.PubSub/GetTopic", api.TopicRequest.SerializeToString, api.TopicInfo.FromString
    )
    schema = channel.unary_unary(
        "/eventbus.v1.PubSub/GetSchema", api.SchemaRequest.SerializeToString, api.SchemaInfo.FromString
    )
    one = await topic(api.TopicRequest(topic_name="/data/AccountChangeEvent"), metadata=METADATA)
    assert one.can_subscribe
    for name in ("/data/ChangeEvents", "/data/Sales__chn"):
        assert (await topic(api.TopicRequest(topic_name=name), metadata=METADATA)).schema_id == ""
    with pytest.raises(
        grpc.aio.AioRpcError, match=r"Schema validation failed\. The schema ID can't be blank\. rpcId: "
    ):
        await schema(api.SchemaRequest(), metadata=METADATA)
    text = (await schema(api.SchemaRequest(schema_id=one.schema_id), metadata=METADATA)).schema_json
    parsed = json.loads(text)
    assert (parsed["name"], parsed["namespace"]) == ("AccountChangeEvent", "com.sforce.eventbus")
    fields = {f["name"]: f for f in parsed["fields"]}
    assert next(iter(fields)) == "ChangeEventHeader"
    assert fields["Name"]["type"][:2] == ["null", "string"]
    assert fields["Name"]["type"][2]["name"] == "Switchable_PersonName"
    assert fields["CreatedDate"]["doc"] == "CreatedDate:DateTime"
    assert fields["ParentId"]["doc"] == "ForeignKey:EntityId"
    header = [f["name"] for f in fields["ChangeEventHeader"]["type"]["fields"]]
    assert header == [
        "entityName", "recordIds", "changeType", "changeOrigin", "transactionKey", "sequenceNumber", "commitTimestamp",
        "commitNumber", "commitUser", "nulledFields", "diffFields", "changedFields",
    ]  # fmt: skip


async def test_bitmaps_of_members_come_without_their_parents_bit(sandbox: SalesforceSandbox) -> None:
    org = sandbox.org
    id = org.create("Account", {"Name": "a"})
    org.skew += 5
    org.update("Account", id, {"ShippingStreet": "1 Way"})
    told = org.events[-1]
    parsed = fastavro.parse_schema(json.loads(org.schemas[told.schema_id]))
    event: Any = fastavro.schemaless_reader(io.BytesIO(told.payload), parsed, None)
    place = [f.name for f in org.kinds["Account"].told].index("ShippingAddress") + 1
    modified = [f.name for f in org.kinds["Account"].told].index("LastModifiedDate") + 1
    top, nested = event["ChangeEventHeader"]["changedFields"]
    assert int(top, 16) == 1 << modified
    assert nested == f"{place}-0x01"
    assert event["ShippingAddress"]["Street"] == "1 Way"
    assert event["Name"] is None


async def test_answers_of_rest(sandbox: SalesforceSandbox) -> None:
    async with httpx.AsyncClient(base_url=sandbox.url) as http:
        base = "/services/data/v66.0"
        refused = await http.get(f"{base}/query", params={"q": "SELECT Id FROM Account"})
        assert (refused.status_code, refused.json()) == (
            401,
            [{"message": "Session expired or invalid", "errorCode": "INVALID_SESSION_ID"}],
        )
        http.headers["authorization"] = f"Bearer {ACCESS_TOKEN}"
        empty = await http.get(f"{base}/query", params={"q": "SELECT Id FROM Account"})
        assert empty.json() == {"totalSize": 0, "done": True, "records": []}
        assert empty.headers["sforce-limit-info"] == "api-usage=1/100000"
        for kind, message in (
            ("daily_limit", "TotalRequests Limit exceeded."),
            ("concurrent_limit", "ConcurrentPerOrgLongTxn Limit exceeded."),
        ):
            sandbox.faults.plan(kind=kind)
            limited = await http.get(f"{base}/sobjects")
            assert (limited.status_code, limited.json()) == (
                403,
                [{"message": message, "errorCode": "REQUEST_LIMIT_EXCEEDED"}],
            )
        bulk = await http.post(
            f"{base}/jobs/query", json={"operation": "query", "query": "SELECT BillingAddress FROM Account"}
        )
        assert bulk.json()[0]["message"] == "Selecting compound data not supported in Bulk Query"
        job = (
            await http.post(
                f"{base}/jobs/query", json={"operation": "query", "query": "SELECT Id FROM Account"}
            )
        ).json()
        assert job["state"] == "UploadComplete"
        states = [(await http.get(f"{base}/jobs/query/{job['id']}")).json()["state"] for _ in range(3)]
        assert states == ["UploadComplete", "InProgress", "JobComplete"]
        other = await http.get(f"/services/data/v65.0/jobs/query/{job['id']}")
        assert other.status_code == 409
        file = await http.get(f"{base}/jobs/query/{job['id']}/results")
        assert (file.headers["sforce-locator"], file.headers["sforce-numberofrecords"]) == ("null", "0")
        form = {"grant_type": "password", "client_id": CLIENT_ID, "username": "x", "password": "y"}
        token = await http.post("/services/oauth2/token", data=form)
        assert (token.status_code, token.json()) == (
            400,
            {"error": "invalid_grant", "error_description": "authentication failure - Invalid Password"},
        )


def test_ids_of_18_characters() -> None:
    assert with_suffix("001000000000001") == "001000000000001AAA"
    assert with_suffix("00D5g000004CAvB") == "00D5g000004CAvBEAW"


async def test_a_page_to_change_things_by_hand(sandbox: SalesforceSandbox) -> None:
    async with httpx.AsyncClient(base_url=sandbox.url) as http:
        assert "Salesforce sandbox" in (await http.get("/")).text
        made = await http.post("/_sandbox/records", json={"object": "Account", "fields": {"Name": "a"}})
        id = made.json()["id"]
        assert (await http.get("/_sandbox/objects")).json()["Account"][0]["Name"] == "a"
        assert (
            await http.request(
                "PATCH", "/_sandbox/records", json={"object": "Account", "id": id, "fields": {"Name": "b"}}
            )
        ).status_code == 200
        assert (await http.post("/_sandbox/gap", json={"object": "Account", "ids": [id]})).status_code == 200
        wrong = await http.post("/_sandbox/streams", json={"nobody": 1})
        assert (wrong.status_code, "there are: silent" in wrong.json()["error"]) == (400, True)
        assert (await http.post("/_sandbox/nobody", json={})).status_code == 400
    assert len(sandbox.org.events) == 3

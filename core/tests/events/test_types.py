from __future__ import annotations

import copy
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dimesh.errors import EventError
from dimesh.events import Event, EventPriority, EventType, Topics
from dimesh.events.names import check_group, check_topic, check_type
from dimesh.events.topics import dead_letter_topic
from dimesh.events.types import event_type

STANDARD = {
    "POLICY_UPDATE": "policy.update",
    "BUDGET_APPROVAL": "budget.approval",
    "RISK_ALERT": "risk.alert",
    "FEATURE_RELEASE": "feature.release",
    "CODE_MERGE": "code.merge",
    "QA_RESULT": "qa.result",
    "CAMPAIGN_LAUNCH": "campaign.launch",
    "LEAD_GENERATED": "lead.generated",
    "DEAL_WON": "deal.won",
    "TICKET_CREATED": "ticket.created",
    "REFUND_PROCESSED": "refund.processed",
    "CHURN_RISK": "churn.risk",
    "INVENTORY_UPDATE": "inventory.update",
    "PO_CREATED": "po.created",
    "SHIPMENT_TRACKED": "shipment.tracked",
    "CANDIDATE_APPLIED": "candidate.applied",
    "EMPLOYEE_ONBOARDED": "employee.onboarded",
    "SURVEY_COMPLETED": "survey.completed",
    "METRIC_COLLECTED": "metric.collected",
    "EXPERIMENT_STARTED": "experiment.started",
    "MODEL_DEPLOYED": "model.deployed",
    "SERVICE_DEPLOYED": "service.deployed",
    "ALERT_TRIGGERED": "alert.triggered",
    "SCALING_EVENT": "scaling.event",
    "CUSTOM": "custom",
    "AGENT_ACTION": "agent.action",
    "SYSTEM_EVENT": "system.event",
}
TOPICS = {
    "MISSION": "pillar.mission",
    "PRODUCT": "pillar.product",
    "GROWTH": "pillar.growth",
    "CUSTOMER": "pillar.customer",
    "SUPPLY": "pillar.supply",
    "PEOPLE": "pillar.people",
    "INTEL": "pillar.intel",
    "PLATFORM": "pillar.platform",
    "ALERTS": "system.alerts",
    "METRICS": "system.metrics",
    "AUDIT": "system.audit",
    "POLICY": "system.policy",
    "CDC_SALESFORCE": "cdc.salesforce",
    "CDC_NETSUITE": "cdc.netsuite",
    "CDC_STRIPE": "cdc.stripe",
    "CDC_ZENDESK": "cdc.zendesk",
}
PILLARS = {
    "Mission & Governance": "pillar.mission",
    "Product & Experience": "pillar.product",
    "Growth Engine": "pillar.growth",
    "Customer Success": "pillar.customer",
    "Resource & Supply": "pillar.supply",
    "People & Culture": "pillar.people",
    "Intelligence & Improvement": "pillar.intel",
    "Platform & Infra": "pillar.platform",
}
HOSTILE = [
    "",
    ".",
    "..",
    "a..b",
    "../etc/passwd",
    "a/b",
    "a\x00b",
    "a b",
    "deal.won\n",
    "\ndeal.won",
    "🚀",
    "é",
    "x" * 10_000,
    "\ud800",
    None,
    3,
    b"deal.won",
    ["deal.won"],
    {},
]


def test_standard_event_types() -> None:
    assert {member.name: member.value for member in EventType} == STANDARD


def test_priorities() -> None:
    assert {p.name: p.value for p in EventPriority} == {
        "LOW": "low",
        "NORMAL": "normal",
        "HIGH": "high",
        "CRITICAL": "critical",
    }


@pytest.mark.parametrize("member", [EventPriority.HIGH, EventType.DEAL_WON, EventType("acme.made-up_1")])
def test_members_equal_their_string(member: EventPriority | EventType) -> None:
    value = member.value
    assert member == value
    assert hash(member) == hash(value)
    assert {value: 1}[member] == 1
    assert {member, value} == {value}
    assert f"{member} {member!s}" == f"{value} {value}"
    for same in (copy.copy(member), copy.deepcopy(member), pickle.loads(pickle.dumps(member))):
        assert same == member
        assert type(same) is type(member)
        assert same.value == value


def test_open_types_are_equal_but_not_listed() -> None:
    made = EventType("acme.order.created")
    assert isinstance(made, EventType)
    assert made.name == "ACME_ORDER_CREATED"
    assert made == EventType("acme.order.created") == "acme.order.created"
    assert made != EventType("acme.order.deleted")
    assert made not in list(EventType)
    assert len(EventType) == len(STANDARD)
    assert event_type("deal.won") is EventType.DEAL_WON
    assert Event("acme.order.created").event_type == made
    assert Event(made).event_type.value == "acme.order.created"


def test_new_types_are_not_stored() -> None:
    for number in range(20_000):
        EventType(f"acme.t{number}")
    assert len(EventType._value2member_map_) == len(STANDARD)


@pytest.mark.parametrize("name", HOSTILE, ids=lambda name: ascii(name)[:20])
def test_hostile_event_types_are_refused(name: str) -> None:
    for make in (check_type, EventType, Event):
        with pytest.raises(EventError) as caught:
            make(name)
        assert "event type" in str(caught.value)
        assert str(caught.value).isprintable()
        assert len(str(caught.value)) < 400


@pytest.mark.parametrize("name", ["Deal.Won", "a.", ".a", "1a", "a.-b", "x" * 256])
def test_event_types_are_lower_case_words(name: str) -> None:
    with pytest.raises(EventError):
        EventType(name)


def test_topics() -> None:
    assert {name: getattr(Topics, name) for name in TOPICS} == TOPICS
    assert {name: Topics.for_pillar(name) for name in PILLARS} == PILLARS


def test_other_pillars_become_slugs() -> None:
    assert Topics.for_pillar("R&D Lab") == "pillar.r-d-lab"
    assert Topics.for_pillar("growth engine") == "pillar.growth-engine"
    for name in ("", "!!!", "🚀"):
        with pytest.raises(EventError):
            Topics.for_pillar(name)


@given(st.text())
def test_for_pillar_returns_a_topic_or_fails(name: str) -> None:
    try:
        topic = Topics.for_pillar(name)
    except EventError:
        return
    assert check_topic(topic) == topic


@pytest.mark.parametrize("name", [n for n in HOSTILE if n != "a..b"], ids=lambda name: ascii(name)[:20])
def test_hostile_topics_are_refused(name: str) -> None:
    with pytest.raises(EventError, match="topic name"):
        check_topic(name)


@pytest.mark.parametrize("name", HOSTILE, ids=lambda name: ascii(name)[:20])
def test_hostile_groups_are_refused(name: str) -> None:
    if name == "a..b":
        assert check_group(name) == name
        return
    with pytest.raises(EventError, match="group"):
        check_group(name)


def test_valid_names() -> None:
    for name in ("a", "A.b-c_9", "x" * 249, ".hidden", "a..b"):
        assert check_topic(name) == name
    for name in ("a", "billing:worker@1", "x" * 255):
        assert check_group(name) == name


def test_a_dead_letter_topic_is_its_own_dead_letter_topic() -> None:
    assert dead_letter_topic("pillar.growth") == "pillar.growth.dlq"
    assert dead_letter_topic("pillar.growth.dlq") == "pillar.growth.dlq"

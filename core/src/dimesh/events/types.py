"""Event types and priorities. Both are strings: they compare, hash and are encoded as their value."""

from __future__ import annotations

from enum import StrEnum

from dimesh.events.names import check_type


class EventPriority(StrEnum):
    """The urgency of an event. Subscriptions can filter by it; it does not change the order of delivery."""

    LOW = "low"
    NORMAL = "normal"
    HIGH = "high"
    CRITICAL = "critical"

    # A member equals its string, so it must have the same hash: Enum would hash the member's name.
    __hash__ = str.__hash__


class EventType(StrEnum):
    """The standard event types. The set is open: ``EventType("acme.order.created")`` creates a member that equals its
    string and has it as its ``.value``, but is not listed here.

    Raises:
        EventError: the name does not consist of lower-case words joined by dots.
    """

    # Mission & Governance
    POLICY_UPDATE = "policy.update"
    BUDGET_APPROVAL = "budget.approval"
    RISK_ALERT = "risk.alert"
    # Product & Experience
    FEATURE_RELEASE = "feature.release"
    CODE_MERGE = "code.merge"
    QA_RESULT = "qa.result"
    # Growth Engine
    CAMPAIGN_LAUNCH = "campaign.launch"
    LEAD_GENERATED = "lead.generated"
    DEAL_WON = "deal.won"
    # Customer Success
    TICKET_CREATED = "ticket.created"
    REFUND_PROCESSED = "refund.processed"
    CHURN_RISK = "churn.risk"
    # Resource & Supply
    INVENTORY_UPDATE = "inventory.update"
    PO_CREATED = "po.created"
    SHIPMENT_TRACKED = "shipment.tracked"
    # People & Culture
    CANDIDATE_APPLIED = "candidate.applied"
    EMPLOYEE_ONBOARDED = "employee.onboarded"
    SURVEY_COMPLETED = "survey.completed"
    # Intelligence & Improvement
    METRIC_COLLECTED = "metric.collected"
    EXPERIMENT_STARTED = "experiment.started"
    MODEL_DEPLOYED = "model.deployed"
    # Platform & Infra
    SERVICE_DEPLOYED = "service.deployed"
    ALERT_TRIGGERED = "alert.triggered"
    SCALING_EVENT = "scaling.event"
    # Any pillar
    CUSTOM = "custom"
    AGENT_ACTION = "agent.action"
    SYSTEM_EVENT = "system.event"

    __hash__ = str.__hash__  # as above

    @classmethod
    def _missing_(cls, value: object) -> EventType:
        # The member is not stored anywhere: a stream of ever new names must not use more and more memory.
        check_type(value)  # type: ignore[arg-type]
        assert isinstance(value, str)
        member = str.__new__(cls, value)
        member._name_ = value.upper().replace(".", "_").replace("-", "_")
        member._value_ = value
        return member


_STANDARD: dict[str, EventType] = {member.value: member for member in EventType}


def event_type(value: str) -> EventType:
    """Return the member for ``value``, creating it if it is not a standard type."""
    return _STANDARD.get(value) or EventType(value)

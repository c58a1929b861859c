"""Schemas for the standard event types: the properties that agents of these pillars send most, with their types.

They require nothing, and a schema of one's own may follow as the next version whatever the compatibility mode.
"""

from __future__ import annotations

from typing import Any, Final

_TEXT: dict[str, Any] = {"type": "string"}
_COUNT: dict[str, Any] = {"type": "integer", "minimum": 0}
_NUMBER: dict[str, Any] = {"type": "number"}
_TIME: dict[str, Any] = {"type": "string", "format": "date-time"}
_MONEY: dict[str, Any] = {"type": "number"}
_SHARE: dict[str, Any] = {"type": "number", "minimum": 0, "maximum": 1}

_PROPERTIES: dict[str, dict[str, Any]] = {
    "policy.update": {"policy_id": _TEXT, "version": _TEXT, "effective_from": _TIME, "summary": _TEXT},
    "budget.approval": {"budget_id": _TEXT, "amount": _MONEY, "currency": _TEXT, "approved_by": _TEXT},
    "risk.alert": {"risk_id": _TEXT, "severity": _TEXT, "description": _TEXT, "score": _SHARE},
    "feature.release": {"feature_id": _TEXT, "version": _TEXT, "released_at": _TIME},
    "code.merge": {"repository": _TEXT, "commit": _TEXT, "branch": _TEXT, "author": _TEXT},
    "qa.result": {"suite": _TEXT, "passed": _COUNT, "failed": _COUNT, "skipped": _COUNT},
    "campaign.launch": {"campaign_id": _TEXT, "channel": _TEXT, "budget": _MONEY, "starts_at": _TIME},
    "lead.generated": {"lead_id": _TEXT, "source": _TEXT, "score": _NUMBER},
    "deal.won": {"deal_id": _TEXT, "amount": _MONEY, "currency": _TEXT, "customer_id": _TEXT},
    "ticket.created": {"ticket_id": _TEXT, "subject": _TEXT, "customer_id": _TEXT},
    "refund.processed": {"refund_id": _TEXT, "amount": _MONEY, "currency": _TEXT, "reason": _TEXT},
    "churn.risk": {"customer_id": _TEXT, "probability": _SHARE, "factors": {"type": "array", "items": _TEXT}},
    "inventory.update": {"sku": _TEXT, "quantity": {"type": "integer"}, "location": _TEXT},
    "po.created": {"po_id": _TEXT, "supplier_id": _TEXT, "amount": _MONEY, "currency": _TEXT},
    "shipment.tracked": {"shipment_id": _TEXT, "status": _TEXT, "location": _TEXT, "at": _TIME},
    "candidate.applied": {"candidate_id": _TEXT, "position_id": _TEXT, "applied_at": _TIME},
    "employee.onboarded": {
        "employee_id": _TEXT,
        "team": _TEXT,
        "starts_on": {"type": "string", "format": "date"},
    },
    "survey.completed": {"survey_id": _TEXT, "respondents": _COUNT, "score": _NUMBER},
    "metric.collected": {"name": _TEXT, "value": _NUMBER, "unit": _TEXT, "at": _TIME},
    "experiment.started": {"experiment_id": _TEXT, "hypothesis": _TEXT, "variants": {"type": "array"}},
    "model.deployed": {"model_id": _TEXT, "version": _TEXT, "environment": _TEXT},
    "service.deployed": {"service": _TEXT, "version": _TEXT, "environment": _TEXT},
    "alert.triggered": {"alert_id": _TEXT, "severity": _TEXT, "message": _TEXT},
    "scaling.event": {"service": _TEXT, "from_replicas": _COUNT, "to_replicas": _COUNT},
    "agent.action": {"action": _TEXT, "tool": _TEXT, "status": _TEXT},
    "system.event": {},
    "custom": {},
}

DEFAULT_SCHEMAS: Final[dict[str, dict[str, Any]]] = {
    f"event.{name}": {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": name,
        **({"properties": properties} if properties else {}),
    }
    for name, properties in _PROPERTIES.items()
}

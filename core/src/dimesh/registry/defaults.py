"""Schemas for the standard event types: the common properties of each type, with their types, meanings and units.

A payload is an object. No property is required, others may be added, and any schema may follow as the next version, whatever the
compatibility mode: whoever knows what a type means in a company registers that.
"""

from __future__ import annotations

from typing import Any, Final

Schema = dict[str, Any]


def _text(meaning: str, *examples: str, **rules: Any) -> Schema:
    shown = {"examples": list(examples)} if examples else {}
    return {"type": "string", "description": meaning, **rules, **shown}


def _id(of: str, example: str) -> Schema:
    return _text(f"The id of {of}", example, minLength=1)


def _time(meaning: str) -> Schema:
    return _text(meaning, "2026-01-31T09:30:00Z", format="date-time")


def _day(meaning: str) -> Schema:
    return _text(meaning, "2026-01-31", format="date")


def _count(meaning: str) -> Schema:
    return {"type": "integer", "minimum": 0, "description": meaning}


def _number(meaning: str, **rules: Any) -> Schema:
    return {"type": "number", "description": meaning, **rules}


def _share(meaning: str) -> Schema:
    return _number(f"{meaning}, from 0 to 1", minimum=0, maximum=1)


def _list(meaning: str, item: Schema) -> Schema:
    return {"type": "array", "items": item, "description": meaning}


_AMOUNT: Final = _number("The amount, in units of the currency (not in its hundredths)")
_CURRENCY: Final = _text("The currency, as ISO 4217 has it", "EUR", pattern="^[A-Z]{3}$")
_VERSION: Final = _text("The version", "2.4.0")
_SEVERITY: Final = _text("The severity, in the words of the company", "high")

_TYPES: Final[dict[str, tuple[str, dict[str, Schema]]]] = {
    "policy.update": (
        "A policy of the company was made or changed",
        {
            "policy_id": _id("the policy", "travel-expenses"),
            "version": _VERSION,
            "effective_from": _time("When the policy takes effect"),
            "summary": _text("What changed"),
        },
    ),
    "budget.approval": (
        "A budget was approved",
        {
            "budget_id": _id("the budget", "marketing-2026"),
            "amount": _AMOUNT,
            "currency": _CURRENCY,
            "approved_by": _text("Who approved it", "cfo"),
        },
    ),
    "risk.alert": (
        "A risk was found, or has grown",
        {
            "risk_id": _id("the risk", "supplier-concentration"),
            "severity": _SEVERITY,
            "description": _text("What may happen"),
            "score": _share("The likelihood"),
        },
    ),
    "feature.release": (
        "A feature is available to users",
        {
            "feature_id": _id("the feature", "dark-mode"),
            "version": _VERSION,
            "released_at": _time("When it was released"),
        },
    ),
    "code.merge": (
        "A change of code was merged",
        {
            "repository": _text("The repository", "acme/shop"),
            "commit": _text("The id of the commit", "9fceb02"),
            "branch": _text("The branch that the change was merged into", "main"),
            "author": _text("Who wrote the change"),
        },
    ),
    "qa.result": (
        "A suite of tests ended",
        {
            "suite": _text("The suite", "checkout"),
            "passed": _count("The number of tests that passed"),
            "failed": _count("The number of tests that failed"),
            "skipped": _count("The number of tests that were skipped"),
        },
    ),
    "campaign.launch": (
        "A campaign began",
        {
            "campaign_id": _id("the campaign", "camp_001"),
            "channel": _text("Where the campaign runs", "email"),
            "budget": _AMOUNT,
            "currency": _CURRENCY,
            "starts_at": _time("When the campaign begins"),
        },
    ),
    "lead.generated": (
        "Somebody became a possible customer",
        {
            "lead_id": _id("the lead", "lead_042"),
            "source": _text("Where the lead comes from", "webinar"),
            "score": _number("How promising the lead is, on the scale of the company"),
        },
    ),
    "deal.won": (
        "A deal was won",
        {
            "deal_id": _id("the deal", "deal_007"),
            "amount": _AMOUNT,
            "currency": _CURRENCY,
            "customer_id": _id("the customer", "cus_100"),
        },
    ),
    "ticket.created": (
        "A customer asked for help",
        {
            "ticket_id": _id("the ticket", "4711"),
            "subject": _text("The subject line"),
            "customer_id": _id("the customer", "cus_100"),
        },
    ),
    "refund.processed": (
        "Money was returned to a customer",
        {
            "refund_id": _id("the refund", "re_100"),
            "amount": _AMOUNT,
            "currency": _CURRENCY,
            "reason": _text("Why the money was returned", "damaged"),
        },
    ),
    "churn.risk": (
        "A customer may leave",
        {
            "customer_id": _id("the customer", "cus_100"),
            "probability": _share("The likelihood"),
            "factors": _list(
                "What speaks for it, the most important first", _text("A factor", "no log-in for 30 days")
            ),
        },
    ),
    "inventory.update": (
        "The stock of an article changed",
        {
            "sku": _text("The article", "TEE-M-BLUE"),
            "quantity": {
                "type": "integer",
                "description": "The number of pieces in stock; negative: more were sold than there are",
            },
            "location": _text("Where the stock is", "warehouse-1"),
        },
    ),
    "po.created": (
        "Something was ordered from a supplier",
        {
            "po_id": _id("the purchase order", "po_2026_001"),
            "supplier_id": _id("the supplier", "sup_5"),
            "amount": _AMOUNT,
            "currency": _CURRENCY,
        },
    ),
    "shipment.tracked": (
        "A shipment moved",
        {
            "shipment_id": _id("the shipment", "1Z999AA10123456784"),
            "status": _text("The status, in the carrier's words", "in transit"),
            "location": _text("Where the shipment is", "Leipzig"),
            "at": _time("When it was there"),
        },
    ),
    "candidate.applied": (
        "Somebody applied for a position",
        {
            "candidate_id": _id("the candidate", "cand_12"),
            "position_id": _id("the position", "backend-engineer"),
            "applied_at": _time("When the application arrived"),
        },
    ),
    "employee.onboarded": (
        "Somebody began to work for the company",
        {
            "employee_id": _id("the employee", "emp_77"),
            "team": _text("The team", "payments"),
            "starts_on": _day("The first day of work"),
        },
    ),
    "survey.completed": (
        "A survey ended",
        {
            "survey_id": _id("the survey", "engagement-q1"),
            "respondents": _count("The number of people who answered"),
            "score": _number("The result, on the scale of the survey"),
        },
    ),
    "metric.collected": (
        "A value was measured",
        {
            "name": _text("What was measured", "checkout.duration"),
            "value": _number("The value, in its unit"),
            "unit": _text("The unit", "ms"),
            "at": _time("When it was measured"),
        },
    ),
    "experiment.started": (
        "An experiment began",
        {
            "experiment_id": _id("the experiment", "exp_9"),
            "hypothesis": _text("What is to be shown"),
            "variants": {"type": "array", "description": "The variants, each by its name or as an object"},
        },
    ),
    "model.deployed": (
        "A model is in use",
        {
            "model_id": _id("the model", "churn-classifier"),
            "version": _VERSION,
            "environment": _text("Where the model is in use", "production"),
        },
    ),
    "service.deployed": (
        "A version of a service is in use",
        {
            "service": _text("The service", "checkout"),
            "version": _VERSION,
            "environment": _text("Where the version is in use", "production"),
        },
    ),
    "alert.triggered": (
        "A rule of the monitoring was violated",
        {
            "alert_id": _id("the alert", "disk-full-db1"),
            "severity": _SEVERITY,
            "message": _text("What is wrong"),
        },
    ),
    "scaling.event": (
        "The number of instances of a service changed",
        {
            "service": _text("The service", "checkout"),
            "from_replicas": _count("The number of instances before"),
            "to_replicas": _count("The number of instances now"),
        },
    ),
    "agent.action": (
        "An agent did something",
        {
            "action": _text("What the agent did", "refund"),
            "tool": _text("The tool that it used", "stripe"),
            "status": _text("How it ended", "done"),
        },
    ),
    "system.event": ("The mesh, or a part of it, reports something", {}),
    "custom": ("Anything else", {}),
}

DEFAULT_SCHEMAS: Final[dict[str, Schema]] = {
    f"event.{name}": {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": name,
        "description": description,
        **({"properties": properties} if properties else {}),
    }
    for name, (description, properties) in _TYPES.items()
}

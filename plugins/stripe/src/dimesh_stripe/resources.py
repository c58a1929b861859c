"""The objects of Stripe that can be captured: where they are listed, and what their events are called.

https://docs.stripe.com/api, and the list of event types there. An object is named as Stripe's ``object`` field does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from dimesh.spi.cdc import Operation


@dataclass(frozen=True, slots=True)
class Resource:
    """One kind of object."""

    name: str
    """As in the field ``object``."""
    path: str
    """Of its list, below ``/v1/``."""
    types: tuple[str, ...]
    """Its event types; ``*`` at the end stands for all verbs. None: it is ``append_only``."""
    params: Mapping[str, str] = field(default_factory=dict)
    """Without which the list leaves some out."""
    nested: tuple[str, ...] = ()
    """Fields that hold a list of which only the first page comes along."""
    never_deleted: bool = False
    """``….deleted`` means cancelled: the object stays readable."""
    append_only: bool = False
    """There are no events of it: rows are only ever added, and followed by their list."""

    def has(self, event_type: str) -> bool:
        """Whether an event is one of this object's."""
        return any(
            event_type.startswith(t[:-1]) and "." not in event_type[len(t) - 1 :]
            if t.endswith("*")
            else event_type == t
            for t in self.types
        )

    def operation(self, event_type: str) -> Operation:
        """What an event of that type says happened."""
        verb = event_type.rpartition(".")[2]
        if verb == "created":
            return Operation.INSERT
        if verb == "deleted" and not self.never_deleted:
            return Operation.DELETE
        return Operation.UPDATE


def _verbs(prefix: str) -> tuple[str, ...]:
    return (f"{prefix}.*",)


RESOURCES: Final[Mapping[str, Resource]] = {
    resource.name: resource
    for resource in (
        Resource("balance_transaction", "balance_transactions", (), append_only=True),
        Resource("charge", "charges", _verbs("charge"), nested=("refunds",)),
        Resource("coupon", "coupons", _verbs("coupon")),
        Resource("credit_note", "credit_notes", _verbs("credit_note"), nested=("lines",)),
        Resource("customer", "customers", _verbs("customer")),
        Resource("dispute", "disputes", _verbs("charge.dispute")),
        Resource("invoice", "invoices", _verbs("invoice"), nested=("lines",)),
        Resource("invoiceitem", "invoiceitems", _verbs("invoiceitem")),
        Resource("payment_intent", "payment_intents", _verbs("payment_intent")),
        Resource("payment_method", "payment_methods", _verbs("payment_method")),
        Resource("payout", "payouts", _verbs("payout")),
        Resource("plan", "plans", _verbs("plan")),
        Resource("price", "prices", _verbs("price")),
        Resource("product", "products", _verbs("product")),
        Resource("promotion_code", "promotion_codes", _verbs("promotion_code")),
        Resource("quote", "quotes", _verbs("quote"), nested=("line_items",)),
        Resource("refund", "refunds", (*_verbs("refund"), *_verbs("charge.refund"))),
        Resource("setup_intent", "setup_intents", _verbs("setup_intent")),
        Resource(
            "subscription",
            "subscriptions",
            _verbs("customer.subscription"),
            params={"status": "all"},
            nested=("items",),
            never_deleted=True,
        ),
        Resource("subscription_schedule", "subscription_schedules", _verbs("subscription_schedule")),
        Resource("tax_rate", "tax_rates", _verbs("tax_rate")),
        Resource("topup", "topups", _verbs("topup")),
        Resource("transfer", "transfers", _verbs("transfer"), nested=("reversals",)),
    )
}

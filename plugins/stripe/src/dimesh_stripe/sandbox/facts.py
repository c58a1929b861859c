"""What Stripe's lists and rows are like, object by object: each entry names its source.

The paths, the parameters that lists accept and require, and the event types are those that Stripe's SDK declares
(:mod:`dimesh_stripe.descriptions`). Nothing here comes from the connector's own table.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, NamedTuple
from urllib.parse import unquote

from dimesh_stripe.descriptions import api

EVENTS: Final = frozenset(api()["events"])
_BOTH: Final = (*api()["lists"].values(), *api()["reads"].values())
OBJECTS: Final = sorted(
    {name for entry in _BOTH for name in entry["objects"]} - {"event", "webhook_endpoint"}
)
"""The names of all objects that can be listed or read."""

PREFIXES: Final = {
    "balance_transaction": "txn", "charge": "ch", "checkout.session": "cs", "coupon": "co", "credit_note": "cn",
    "customer": "cus", "dispute": "dp", "invoice": "in", "invoiceitem": "ii", "line_item": "il", "payment_intent": "pi",
    "payment_method": "pm", "payout": "po", "plan": "plan", "price": "price", "product": "prod", "promotion_code": "promo",
    "quote": "qt", "refund": "re", "review": "prv", "setup_intent": "seti", "subscription": "sub",
    "subscription_item": "si", "subscription_schedule": "sub_sched", "tax_id": "txi", "tax_rate": "txr", "topup": "tu",
    "transfer": "tr", "transfer_reversal": "trr", "account": "acct", "bank_account": "ba", "card": "card",
}  # fmt: skip
"""The beginnings of ids (reference, examples); others begin with the name."""

FAMILIES: Final = {
    "dispute": "charge.dispute", "subscription": "customer.subscription", "tax_id": "customer.tax_id",
    "issuing.authorization": "issuing_authorization", "issuing.card": "issuing_card", "issuing.dispute": "issuing_dispute",
    "issuing.cardholder": "issuing_cardholder", "issuing.token": "issuing_token", "issuing.transaction": "issuing_transaction",
    "fee_refund": "application_fee.refund", "source": "customer.source",
}  # fmt: skip
"""What stands before the verb in event types (list of event types); by default the name of the object."""
FIRST: Final = {
    "charge": "charge.succeeded", "payment_method": "payment_method.attached", "review": "review.opened",
}  # fmt: skip
"""The events of new objects that have no ``.created`` (list of event types)."""
ENDS: Final = {"subscription"}
"""The objects whose ``.deleted`` means ended: they can still be read (reference, *Cancel a subscription*)."""
STUMPS: Final = {"customer", "terminal.reader", "terminal.location", "terminal.configuration"}
"""The objects of which a GET shows a deleted one as ``deleted: true`` (OpenAPI document); of others it is a 404
(arlyon/async-stripe #464)."""
UNCHANGED: Final = {"balance_transaction"}
"""The objects that no request creates or changes (OpenAPI document: no POST)."""

HIDDEN: Final[Mapping[str, tuple[str, ...]]] = {
    "checkout.session": ("line_items",), "quote": ("line_items",), "payment_link": ("line_items",),
    "invoice": ("payments",), "customer": ("sources", "subscriptions", "tax_ids", "tax", "invoice_credit_balance"),
    "price": ("tiers", "currency_options"), "plan": ("tiers",), "coupon": ("applies_to", "currency_options"),
    "charge": ("refunds",),
}  # fmt: skip
"""The fields that a row has only if a request expands them (reference: *includable*). A charge has its refunds in API versions
before 2022-11-15 (singer-io/tap-stripe 3.3.0)."""
REFUNDS_UNTIL: Final = "2022-11-15"

NESTED: Final[Mapping[str, tuple[str, ...]]] = {
    "subscription": ("items",), "invoice": ("lines", "payments"), "credit_note": ("lines",), "transfer": ("reversals",),
    "application_fee": ("refunds",), "charge": ("refunds",), "radar.value_list": ("list_items",),
    "checkout.session": ("line_items",), "quote": ("line_items",), "payment_link": ("line_items",),
    "customer": ("sources", "subscriptions", "tax_ids"),
}  # fmt: skip
"""The lists in rows; ten entries of each are shown (airbytehq/airbyte #85087)."""


class InRow(NamedTuple):
    """A list whose rows are entries of another object."""

    owner: str
    field: str
    object: str


IN_ROWS: Final[Mapping[str, InRow]] = {
    "subscription_items": InRow("subscription", "items", "subscription_item"),
    "invoices/{invoice}/lines": InRow("invoice", "lines", "line_item"),
    "credit_notes/{credit_note}/lines": InRow("credit_note", "lines", "credit_note_line_item"),
    "transfers/{id}/reversals": InRow("transfer", "reversals", "transfer_reversal"),
    "application_fees/{id}/refunds": InRow("application_fee", "refunds", "fee_refund"),
    "radar/value_list_items": InRow("radar.value_list", "list_items", "radar.value_list_item"),
    "checkout/sessions/{session}/line_items": InRow("checkout.session", "line_items", "item"),
    "quotes/{quote}/line_items": InRow("quote", "line_items", "item"),
    "payment_links/{payment_link}/line_items": InRow("payment_link", "line_items", "item"),
}
"""The lists of entries of rows."""
ENTRIES: Final = {found.object: found for found in IN_ROWS.values() if found.object != "item"}

UNNAMED: Final = {"product_feature": "product", "entitlements.active_entitlement": "customer"}
"""The field of the parent, which rows of these objects do not have (reference)."""
IN_PARENT: Final = {"capability": "account"}
"""The objects whose ids repeat in other parents: *card_payments* (reference, *Capabilities*)."""
ON_CLOCKS: Final = {"customer", "quote", "subscription", "subscription_schedule"}
"""The objects of test clocks, which plain lists leave out (parameter ``test_clock``)."""

SINGLES: Final = {
    path: entry["objects"][0]
    for path, entry in api()["reads"].items()
    if path in ("balance", "balance_settings", "tax/settings", "customers/{customer}/cash_balance")
}
"""The addresses of objects without an id."""


class Route(NamedTuple):
    """A path that the API declares."""

    template: str
    pattern: re.Pattern[str]


def _routes(paths: Mapping[str, object]) -> list[Route]:
    """Return the routes; those without holes come first."""
    ordered = sorted(paths, key=lambda path: path.count("{"))
    return [Route(path, re.compile(re.sub(r"{\w+}", "([^/]+)", path))) for path in ordered]


LISTS: Final = _routes(api()["lists"])
READS: Final = _routes(api()["reads"])


def find(routes: list[Route], path: str) -> tuple[str, tuple[str, ...]] | None:
    """Return the template of a path, which is quoted, and the values in its holes; None if the API does not have this path."""
    for route in routes:
        if (match := route.pattern.fullmatch(path)) is not None:
            return route.template, tuple(unquote(value) for value in match.groups())
    return None

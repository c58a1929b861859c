"""The Stripe objects that can be captured: where they are listed, and the names of their events.

https://docs.stripe.com/api, and the list of event types there. The name of an object is the value of Stripe's field ``object``.
Comments name a source where the reference does not say it, or says otherwise. The tests compare paths, parameters and event types
with what Stripe's SDK declares (:mod:`dimesh_stripe.descriptions.declared`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from dimesh_stripe.resource import Inside, Resource, Way

MOST_TYPES: Final = 20
"""The largest number of event types that one request may name (reference, *List all events*)."""


def _plain(
    name: str,
    path: str,
    first: str = "created",
    later: str = "updated",
    gone: str = "",
    *,
    prefix: str = "",
    ways: tuple[Way, ...] = (),
    item: str = "",
    **more: Any,
) -> Resource:
    """Return an object with a list of its own, whose events are named by their verbs.

    Args:
        name: the name of the object.
        path: the path of its list, and of its rows unless ``item`` is given.
        first: the verbs of the first events of a row.
        later: the verbs of the events of changes.
        gone: the verbs of the events of deletes.
        prefix: stands before each verb; by default the name.
        ways: the lists, if one plain list does not have all rows.
        item: the path of a row, if it is another one.
        more: the other fields of :class:`Resource`.
    """

    def types(verbs: str) -> tuple[str, ...]:
        return tuple(f"{prefix or name}.{verb}" for verb in verbs.split())

    return Resource(
        name,
        ways or (Way(path),),
        item or f"{path}/{{id}}",
        first=types(first),
        later=types(later),
        gone=types(gone),
        **more,
    )


def _listed(name: str, path: str, **more: Any) -> Resource:
    """Return an object without events: its list is read again at an interval."""
    return _plain(name, path, "", "", relist=True, **more)


def _child(name: str, parent: str, path: str, item: str = "", **more: Any) -> Resource:
    """Return an object whose rows are listed for each row of a parent; ``{}`` in ``path`` stands for the parent's id."""
    return Resource(name, (Way(path, under=parent),), item, **more)


def _asked(name: str, path: str, param: str, parent: str, **more: Any) -> Resource:
    """Return an object whose list requires a parameter with the id of a parent."""
    ways = (Way(path, {param: "{}"}, parent),)
    return _plain(name, path, ways=ways, **more)


def _single(name: str, path: str, later: str) -> Resource:
    """Return an object of which an account has one, without an id (reference; recorded: *balance.available*)."""
    return Resource(name, (Way(path),), path, ("object",), later=(later,), relist=True)


def _treasury(name: str, path: str, first: str = "created", later: str = "", **more: Any) -> Resource:
    """Return an object of a financial account, whose id the list requires."""
    return _asked(
        f"treasury.{name}", f"treasury/{path}", "financial_account", "treasury.financial_account",
        first=first, later=later, **more,
    )  # fmt: skip


_INVOICE_LATER: Final = (
    "updated finalized paid sent voided overdue overpaid will_be_due finalization_failed marked_uncollectible "
    "payment_succeeded payment_failed payment_action_required payment_attempt_required"
)
_INVOICE_TYPES: Final = tuple(f"invoice.{verb}" for verb in f"created {_INVOICE_LATER} deleted".split())
_SUBSCRIPTION_LATER: Final = (
    "updated paused resumed pending_update_applied pending_update_expired trial_will_end deleted"
)
_SUBSCRIPTION_TYPES: Final = tuple(
    f"customer.subscription.{verb}" for verb in f"created {_SUBSCRIPTION_LATER}".split()
)

_PAYMENTS: Final = (
    # New rows come from the list, and pending ones become available without any event (webhookdb #301).
    _plain(
        "balance_transaction", "balance_transactions", "", "", follows=True, final=("status", "available")
    ),
    # There is no charge.created. Refunds are in rows of older API versions only (tap-stripe 3.3.0).
    _plain(
        "charge", "charges", "succeeded failed pending", "captured updated refunded expired", nested=("refunds",)
    ),
    # No created and no updated: an open session is read again.
    _plain(
        "checkout.session", "checkout/sessions", "",
        "completed expired async_payment_succeeded async_payment_failed",
        expand=("line_items",), nested=("line_items",), final=("status", "complete", "expired"),
    ),
    _plain(
        "dispute", "disputes", later="updated closed funds_withdrawn funds_reinstated", prefix="charge.dispute"
    ),
    _plain("file", "files", later="", final=("id",)),  # file.created is about files that Stripe made
    _listed("file_link", "file_links"),
    # No updated (stripe-node #937).
    _plain(
        "payment_intent", "payment_intents",
        later="processing requires_action amount_capturable_updated partially_funded succeeded payment_failed canceled",
        final=("status", "succeeded", "canceled"),
    ),
    # The reference says that the plain list has all but those of type custom; its older text, that it is for Treasury only
    # (airbytehq/airbyte #44891). So each customer's list is read, too. Unattached ones have no event.
    _plain(
        "payment_method", "payment_methods", "attached", "updated automatically_updated detached",
        ways=(
            Way("payment_methods"),
            Way("payment_methods", {"type": "custom"}),
            Way("customers/{}/payment_methods", under="customer"),
        ),
    ),
    _listed("payment_method_configuration", "payment_method_configurations"),
    _listed("payment_method_domain", "payment_method_domains"),
    _plain("payout", "payouts", later="updated paid failed canceled reconciliation_completed"),
    # Some accounts send refund.*, and some only events of the charge, which has the refunds (estuary/connectors #1965).
    Resource(
        "refund", (Way("refunds"),), "refunds/{id}", first=("refund.created",),
        later=("refund.updated", "refund.failed", "charge.refund.updated"),
        inside=Inside("refunds", ("charge.refunded",)),
    ),
    # An attempt has no address of its own.
    Resource(
        "setup_attempt", (Way("setup_attempts", {"setup_intent": "{}"}, "setup_intent"),), relist=True
    ),
    _plain(
        "setup_intent", "setup_intents", later="requires_action succeeded setup_failed canceled",
        final=("status", "succeeded", "canceled"),
    ),
    _plain(
        "topup", "topups", later="succeeded failed canceled reversed",
        final=("status", "succeeded", "failed", "canceled", "reversed"),
    ),
)  # fmt: skip

_CUSTOMERS: Final = (
    _single("balance", "balance", "balance.available"),
    _single("balance_settings", "balance_settings", "balance_settings.updated"),
    _child(
        "cash_balance", "customer", "customers/{}/cash_balance", "customers/{customer}/cash_balance",
        key=("customer",), later=("cash_balance.funds_available",), relist=True,
    ),
    _plain(
        "customer", "customers", gone="deleted",
        expand=("sources", "subscriptions", "tax_ids", "tax", "invoice_credit_balance"),
        nested=("sources", "subscriptions", "tax_ids"),
    ),
    _child(
        "customer_balance_transaction", "customer", "customers/{}/balance_transactions",
        "customers/{customer}/balance_transactions/{id}", key=("customer", "id"), relist=True,
    ),
    _child(
        "customer_cash_balance_transaction", "customer", "customers/{}/cash_balance_transactions",
        "customers/{customer}/cash_balance_transactions/{id}", key=("customer", "id"),
        first=("customer_cash_balance_transaction.created",),
    ),
    # Cards, bank accounts and sources.
    _child(
        "customer_source", "customer", "customers/{}/sources", "customers/{customer}/sources/{id}",
        key=("customer", "id"), first=("customer.source.created",),
        later=("customer.source.updated", "customer.source.expiring"), gone=("customer.source.deleted",),
    ),
    # The plain list has the account's own.
    _plain(
        "tax_id", "tax_ids", gone="deleted", prefix="customer.tax_id",
        ways=(Way("tax_ids"), Way("customers/{}/tax_ids", under="customer")),
    ),
)  # fmt: skip

_BILLING: Final = (
    _listed("billing.alert", "billing/alerts"),
    _plain("billing.credit_balance_transaction", "billing/credit_balance_transactions", later=""),
    _plain("billing.credit_grant", "billing/credit_grants"),
    _plain("billing.meter", "billing/meters", later="updated deactivated reactivated"),
    _plain("billing_portal.configuration", "billing_portal/configurations"),
    _plain("coupon", "coupons", gone="deleted", expand=("applies_to", "currency_options")),
    _plain("credit_note", "credit_notes", later="updated voided", nested=("lines",)),
    _asked(
        "entitlements.active_entitlement", "entitlements/active_entitlements", "customer", "customer",
        first="", later="",
        inside=Inside("entitlements", ("entitlements.active_entitlement_summary.updated",)),
    ),
    _listed("entitlements.feature", "entitlements/features"),
    _plain(
        "invoice", "invoices", later=_INVOICE_LATER, gone="deleted", nested=("lines", "payments"),
        expand=("payments",),
    ),
    # An open one and a cancelled one are silent.
    _plain("invoice_payment", "invoice_payments", "", "paid", final=("status", "paid", "canceled")),
    # invoiceitem.updated was withdrawn in 2023 (stripe-node #1984).
    _plain("invoiceitem", "invoiceitems", later="", gone="deleted", final=("invoice",)),
    # A line has no address of its own.
    _child(
        "line_item", "invoice", "invoices/{}/lines",
        inside=Inside("lines", _INVOICE_TYPES, ("invoice.deleted",)),
    ),
    _plain("plan", "plans", gone="deleted", expand=("tiers",)),
    # The plain list has active prices only (reference, "List all prices"), though others saw both (estuary/connectors #4625).
    # Inline prices are in neither.
    _plain(
        "price", "prices", gone="deleted", expand=("tiers", "currency_options"),
        ways=(Way("prices", {"active": "true"}), Way("prices", {"active": "false"})),
    ),
    _plain("product", "products", gone="deleted"),
    # A row does not name its product.
    _child(
        "product_feature", "product", "products/{}/features", "products/{product}/features/{id}",
        key=("product", "id"), relist=True,
    ),
    _plain("promotion_code", "promotion_codes"),
    _plain("payment_link", "payment_links", expand=("line_items",), nested=("line_items",)),
    _plain(
        "quote", "quotes", later="finalized accepted canceled", expand=("line_items",), nested=("line_items",),
        final=("status", "accepted", "canceled"),
    ),
    _listed("shipping_rate", "shipping_rates"),
    # Its deleted means ended: a subscription stays readable.
    _plain(
        "subscription", "subscriptions", later=_SUBSCRIPTION_LATER, prefix="customer.subscription",
        ways=(Way("subscriptions", {"status": "all"}),), nested=("items",),
    ),
    Resource(
        "subscription_item", (Way("subscription_items", {"subscription": "{}"}, "subscription"),),
        "subscription_items/{id}", inside=Inside("items", _SUBSCRIPTION_TYPES),
    ),
    _plain(
        "subscription_schedule", "subscription_schedules",
        later="updated canceled completed released aborted expiring",
    ),
    _plain("tax_rate", "tax_rates"),
    _listed("tax.registration", "tax/registrations", ways=(Way("tax/registrations", {"status": "all"}),)),
    _single("tax.settings", "tax/settings", "tax.settings.updated"),
)  # fmt: skip

_CONNECT: Final = (
    # The events of accounts and what belongs to them are not reliable (estuary/connectors, source-stripe-native), and are in the
    # feeds of these accounts.
    _plain("account", "accounts", "", relist=True),
    _plain("application_fee", "application_fees", later="refunded", nested=("refunds",)),
    # Ids such as card_payments are the same in every account.
    _child(
        "capability", "account", "accounts/{}/capabilities", "accounts/{account}/capabilities/{id}",
        key=("account", "id"), later=("capability.updated",), relist=True,
    ),
    # Bank accounts and cards.
    _child(
        "external_account", "account", "accounts/{}/external_accounts",
        "accounts/{account}/external_accounts/{id}", key=("account", "id"), relist=True,
        first=("account.external_account.created",), later=("account.external_account.updated",),
        gone=("account.external_account.deleted",),
    ),
    # A new one is in the event of its fee.
    _child(
        "fee_refund", "application_fee", "application_fees/{}/refunds", "application_fees/{fee}/refunds/{id}",
        key=("fee", "id"), later=("application_fee.refund.updated",),
        inside=Inside("refunds", ("application_fee.refunded",)),
    ),
    _child(
        "person", "account", "accounts/{}/persons", "accounts/{account}/persons/{id}",
        key=("account", "id"), relist=True, first=("person.created",), later=("person.updated",),
        gone=("person.deleted",),
    ),
    _plain("transfer", "transfers", later="updated reversed", nested=("reversals",)),
    _child(
        "transfer_reversal", "transfer", "transfers/{}/reversals", "transfers/{transfer}/reversals/{id}",
        key=("transfer", "id"), inside=Inside("reversals", ("transfer.reversed",)),
    ),
)  # fmt: skip

_RISK: Final = (
    _listed("identity.verification_report", "identity/verification_reports"),
    _plain(
        "identity.verification_session", "identity/verification_sessions",
        later="processing requires_input verified canceled redacted",
        final=("status", "verified", "canceled"),
    ),
    _plain("radar.early_fraud_warning", "radar/early_fraud_warnings"),
    _listed("radar.value_list", "radar/value_lists", nested=("list_items",)),
    _asked(
        "radar.value_list_item", "radar/value_list_items", "value_list", "radar.value_list",
        first="", later="", relist=True,
    ),
    # The list has open ones only: a closed one is read by its id.
    _plain("review", "reviews", "opened", "closed"),
)  # fmt: skip

_ISSUING: Final = (
    # issuing_authorization.request is a question, and no change.
    _plain("issuing.authorization", "issuing/authorizations", prefix="issuing_authorization"),
    _plain("issuing.card", "issuing/cards", prefix="issuing_card"),
    _plain("issuing.cardholder", "issuing/cardholders", prefix="issuing_cardholder"),
    _plain(
        "issuing.dispute", "issuing/disputes", prefix="issuing_dispute",
        later="updated submitted closed funds_reinstated funds_rescinded",
    ),
    _asked("issuing.token", "issuing/tokens", "card", "issuing.card", prefix="issuing_token"),
    _plain(
        "issuing.transaction", "issuing/transactions", prefix="issuing_transaction",
        later="updated purchase_details_receipt_updated",
    ),
    _listed("terminal.configuration", "terminal/configurations"),
    _listed("terminal.location", "terminal/locations"),
    _plain(
        "terminal.reader", "terminal/readers", "", "action_failed action_succeeded action_updated", relist=True
    ),
    _treasury("credit_reversal", "credit_reversals", later="posted"),
    _treasury("debit_reversal", "debit_reversals", later="completed initial_credit_granted"),
    _plain(
        "treasury.financial_account", "treasury/financial_accounts", later="closed features_status_updated"
    ),
    _treasury("inbound_transfer", "inbound_transfers", later="canceled failed succeeded"),
    _treasury(
        "outbound_payment", "outbound_payments",
        later="canceled expected_arrival_date_updated failed posted returned tracking_details_updated",
    ),
    _treasury(
        "outbound_transfer", "outbound_transfers",
        later="canceled expected_arrival_date_updated failed posted returned tracking_details_updated",
    ),
    _treasury("received_credit", "received_credits", later="failed succeeded"),
    _treasury("received_debit", "received_debits"),
    _treasury("transaction", "transactions", first="", relist=True),
    _treasury("transaction_entry", "transaction_entries", first="", relist=True),
)  # fmt: skip

RESOURCES: Final[Mapping[str, Resource]] = {
    resource.name: resource
    for resource in sorted(
        (*_PAYMENTS, *_CUSTOMERS, *_BILLING, *_CONNECT, *_RISK, *_ISSUING), key=lambda found: found.name
    )
}

REFUSED: Final[Mapping[str, str]] = {
    "discount": "Stripe has no list and no address of discounts; capture what has them: customer, subscription, invoice",
    "mandate": "Stripe has no list of mandates, only an event of later changes; capture payment_method",
    "entitlements.active_entitlement_summary": "it has no list; capture entitlements.active_entitlement",
    "billing.alert_triggered": "it is a message and no row; capture billing.alert",
    "bank_account": "Stripe lists it with cards; capture external_account or customer_source",
    "card": "Stripe lists it with bank accounts; capture external_account or customer_source",
    "source": "Stripe lists it by customer, with cards and bank accounts; capture customer_source",
    "item": "it has no list of its own; capture what has it: checkout.session, payment_link, quote",
    "billing_portal.session": "it can be neither listed nor read",
}
"""Objects that cannot be captured, and why."""

"""The connector as a class of its own."""

from __future__ import annotations

from typing import Any

from dimesh import EventBus, SourceConnector
from dimesh.options import parse_options
from dimesh_stripe.connected import make_source
from dimesh_stripe.options import StripeOptions


class StripeCDCConnector(SourceConnector):
    """Captures changes of a Stripe account; connects when it is started.

    Args:
        connector_id: the name of the connector and of its positions.
        event_bus: changes are published to its topic ``cdc.stripe``.
        pillar: the pillar that the changes belong to.
        api_key: a restricted key that may read events and the objects to capture.
        options: of the source (:class:`~dimesh_stripe.options.StripeOptions`) and of :class:`dimesh.CDCConnector`.
    """

    def __init__(
        self, connector_id: str, event_bus: EventBus, pillar: str = "", api_key: str = "", **options: Any
    ) -> None:
        own, given = self.split_options(options)
        parsed = parse_options(StripeOptions, {**given, "api_key": api_key}, "source 'stripe'")
        self._stripe = make_source(parsed, own.get("clock") or event_bus.clock)
        super().__init__(connector_id, self._stripe, event_bus, pillar, **own)

    def hint(self, event_type: str) -> None:
        """Read the feed at once: a webhook reported an event of this type."""
        self._stripe.hint(event_type)

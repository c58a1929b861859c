"""The connector as a class of its own."""

from __future__ import annotations

from typing import Any

from dimesh import EventBus, SourceConnector
from dimesh.spi.options import parse_options
from dimesh_stripe.options import StripeOptions
from dimesh_stripe.source import StripeSource


class StripeCDCConnector(SourceConnector):
    """Captures changes of a Stripe account; connects at its start.

    Args:
        connector_id: names the connector and its positions.
        event_bus: changes go to its topic ``cdc.stripe``.
        pillar: the pillar that the changes belong to.
        api_key: a restricted key that may read events and the objects to capture.
        options: of the source (:class:`~dimesh_stripe.options.StripeOptions`) and of :class:`dimesh.CDCConnector`.
    """

    def __init__(
        self, connector_id: str, event_bus: EventBus, pillar: str = "", api_key: str = "", **options: Any
    ) -> None:
        own = {name: options.pop(name) for name in self.OPTIONS if name in options}
        parsed = parse_options(StripeOptions, {**options, "api_key": api_key}, "source 'stripe'")
        self._stripe = StripeSource(parsed, own.get("clock") or event_bus.clock)
        super().__init__(connector_id, self._stripe, event_bus, pillar, **own)

    def hint(self, event_type: str) -> None:
        """A webhook said that there is something new of this type: look at once."""
        self._stripe.hint(event_type)

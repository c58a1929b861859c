"""The connector as a class of its own."""

from __future__ import annotations

from typing import Any

from dimesh import EventBus, SourceConnector
from dimesh.options import parse_options
from dimesh_salesforce.options import SalesforceOptions
from dimesh_salesforce.source import SalesforceSource


class SalesforceCDCConnector(SourceConnector):
    """Captures changes of a Salesforce org; connects when it is started.

    Args:
        connector_id: the name of the connector and of its positions.
        event_bus: changes are published to its topic ``cdc.salesforce``.
        pillar: the pillar that the changes belong to.
        instance_url: My Domain of the org.
        access_token: a token that works until it expires; with the other credentials of
            :class:`~dimesh_salesforce.options.SalesforceOptions`, tokens are renewed.
        options: of the source, and of :class:`dimesh.CDCConnector`.
    """

    def __init__(
        self,
        connector_id: str,
        event_bus: EventBus,
        pillar: str = "",
        instance_url: str = "",
        access_token: str | None = None,
        **options: Any,
    ) -> None:
        own, given = self.split_options(options)
        given = {**given, "instance_url": instance_url, "access_token": access_token}
        parsed = parse_options(SalesforceOptions, given, "source 'salesforce'")
        source = SalesforceSource(parsed, own.get("clock") or event_bus.clock)
        super().__init__(connector_id, source, event_bus, pillar, **own)

"""The connector as a class of its own."""

from __future__ import annotations

from typing import Any

from dimesh import EventBus, SourceConnector
from dimesh.options import parse_options
from dimesh_zendesk.options import ZendeskOptions
from dimesh_zendesk.source import ZendeskSource


class ZendeskCDCConnector(SourceConnector):
    """Captures changes of a Zendesk account; connects when it is started.

    Args:
        connector_id: the name of the connector and of its positions.
        event_bus: changes are published to its topic ``cdc.zendesk``.
        pillar: the pillar that the changes belong to.
        subdomain: the account's subdomain of zendesk.com.
        email: the address of an administrator, for an API token.
        api_token: an API token, which Zendesk ends on 2027-04-30; None: give ``client_id`` and ``client_secret``.
        options: of the source (:class:`~dimesh_zendesk.options.ZendeskOptions`) and of :class:`dimesh.CDCConnector`.
    """

    def __init__(
        self,
        connector_id: str,
        event_bus: EventBus,
        pillar: str = "",
        subdomain: str | None = None,
        email: str | None = None,
        api_token: str | None = None,
        **options: Any,
    ) -> None:
        own, given = self.split_options(options)
        named = {"subdomain": subdomain, "email": email, "api_token": api_token}
        given |= {name: value for name, value in named.items() if value is not None}
        parsed = parse_options(ZendeskOptions, given, "source 'zendesk'")
        self._zendesk = ZendeskSource(parsed, own.get("clock") or event_bus.clock)
        super().__init__(connector_id, self._zendesk, event_bus, pillar, **own)

    def hint(self, kind: str) -> None:
        """Read the exports as soon as they show a change of now: a webhook reported an event of this kind."""
        self._zendesk.hint(kind)

"""The connector as a class of its own."""

from __future__ import annotations

from typing import Any

from dimesh import EventBus, SourceConnector
from dimesh.options import parse_options
from dimesh_netsuite.options import NetSuiteOptions
from dimesh_netsuite.source import NetSuiteSource


class NetSuiteCDCConnector(SourceConnector):
    """Captures changes of a NetSuite account; connects when it is started.

    Give ``client_id``, ``certificate_id`` and ``private_key`` for OAuth 2.0 client credentials. The four keys of token-based
    authentication are the legacy form: NetSuite creates no new integrations with it from release 2027.1 on.

    Args:
        connector_id: the name of the connector and of its positions.
        event_bus: changes are published to its topic ``cdc.netsuite``.
        pillar: the pillar that the changes belong to.
        account_id: the id of the account, such as ``1234567`` or ``1234567_SB1``.
        consumer_key: the consumer key of token-based authentication.
        consumer_secret: the consumer secret.
        token_id: the id of the token.
        token_secret: the secret of the token.
        options: of the source (:class:`~dimesh_netsuite.options.NetSuiteOptions`) and of :class:`dimesh.CDCConnector`.
    """

    def __init__(
        self,
        connector_id: str,
        event_bus: EventBus,
        pillar: str = "",
        account_id: str = "",
        consumer_key: str | None = None,
        consumer_secret: str | None = None,
        token_id: str | None = None,
        token_secret: str | None = None,
        **options: Any,
    ) -> None:
        own, given = self.split_options(options)
        keys = {
            "consumer_key": consumer_key,
            "consumer_secret": consumer_secret,
            "token_id": token_id,
            "token_secret": token_secret,
        }
        given |= {name: value for name, value in keys.items() if value is not None}
        parsed = parse_options(NetSuiteOptions, {**given, "account_id": account_id}, "source 'netsuite'")
        source = NetSuiteSource(parsed, own.get("clock") or event_bus.clock)
        super().__init__(connector_id, source, event_bus, pillar, **own)

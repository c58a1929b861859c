"""A local server that behaves as Salesforce's APIs do, limits and failures included, for tests, demos and trying out::

    async with SalesforceSandbox(keep_alive=1.0) as salesforce:
        account = salesforce.org.create("Account", {"Name": "Ada Ltd"})
        ...  # a connector with instance_url=salesforce.url, pubsub=salesforce.grpc_target, plaintext=True

The sandbox keeps everything in memory. It has no rules of an org's own: no validation, no triggers, no sharing.

Each behaviour follows a source, which the docstrings name as follows. *Protocol*: the published ``eventbus.proto``.
*Documentation*: Salesforce's documentation of the Pub/Sub API, of change data capture, of the REST API or of Bulk API 2.0.
*Recorded*: what a real org sent. ``owner/repository #number``: a thread of a client project. *No source*: nobody has
reported the behaviour of Salesforce itself, but a proxy or a broken connection can show it. The client simple-salesforce
runs against the sandbox in the tests.
"""

from __future__ import annotations

from dimesh_salesforce.sandbox.org import Org
from dimesh_salesforce.sandbox.server import SalesforceSandbox
from dimesh_salesforce.sandbox.tokens import (
    ACCESS_TOKEN,
    CLIENT_ID,
    CLIENT_SECRET,
    PASSWORD,
    REFRESH_TOKEN,
    USERNAME,
)

__all__ = [
    "ACCESS_TOKEN",
    "CLIENT_ID",
    "CLIENT_SECRET",
    "PASSWORD",
    "REFRESH_TOKEN",
    "USERNAME",
    "Org",
    "SalesforceSandbox",
]

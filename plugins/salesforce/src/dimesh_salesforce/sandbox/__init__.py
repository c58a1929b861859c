"""A local server that behaves as Salesforce's APIs do, limits and nastiness included, for tests, demos and trying out::

    async with SalesforceSandbox(keep_alive=1.0) as salesforce:
        account = salesforce.org.create("Account", {"Name": "Ada Ltd"})
        ...  # a connector with instance_url=salesforce.url, pubsub=salesforce.grpc_target, plaintext=True

It keeps everything in memory, and has no rules of its own: no validation, no triggers, no sharing.
"""

from __future__ import annotations

from dimesh_salesforce.sandbox.org import Org
from dimesh_salesforce.sandbox.rest import (
    ACCESS_TOKEN,
    CLIENT_ID,
    CLIENT_SECRET,
    PASSWORD,
    REFRESH_TOKEN,
    USERNAME,
)
from dimesh_salesforce.sandbox.server import SalesforceSandbox

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

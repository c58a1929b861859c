"""A local server that behaves as Zendesk's REST API does, limits and failures included, for tests, demos and trying out::

    async with ZendeskSandbox() as zendesk:
        ticket = zendesk.account.create("tickets", {"subject": "No tea"})
        ...  # a connector with url=zendesk.url

The sandbox keeps everything in memory. It has no business rules: a row has the fields that it is given.

Each behaviour follows a source, which the docstrings name as follows. *Reference*: Zendesk's OpenAPI document and developer
pages. *Recorded*: an answer that Zendesk gave. ``owner/repository #number``: a thread of a connector that reports the
behaviour. *Unconfirmed*: a guess, where nobody has said. zenpy runs against the sandbox in the tests.
"""

from __future__ import annotations

from dimesh_zendesk.sandbox.account import Account
from dimesh_zendesk.sandbox.faults import ZendeskFault
from dimesh_zendesk.sandbox.server import API_TOKEN, CLIENT_ID, CLIENT_SECRET, EMAIL, ZendeskSandbox

__all__ = ["API_TOKEN", "CLIENT_ID", "CLIENT_SECRET", "EMAIL", "Account", "ZendeskFault", "ZendeskSandbox"]

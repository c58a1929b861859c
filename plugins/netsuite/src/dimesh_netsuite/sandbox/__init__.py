"""A local server that behaves as NetSuite's REST web services do, limits and failures included, for tests, demos and trying
queries::

    async with NetSuiteSandbox() as netsuite:
        netsuite.account.create("customer", {"companyname": "Acme"})
        ...  # a connector with netsuite.options()

SuiteQL runs on SQLite in memory: sqlglot translates the dialect. ``POST /_sandbox/query`` runs a query without credentials.

Each behaviour follows a source, which the docstrings name as follows. *Oracle*: a page of NetSuite's help. *Recorded*: an answer
that NetSuite gave to a client. *Reported*: the authors or users of a connector describe the behaviour (``owner/repository
#number``). *Not confirmed*: it is expected, and nobody has shown it of NetSuite; a connector has to survive it.
"""

from __future__ import annotations

from dimesh_netsuite.sandbox.account import ACCOUNT, Account, Role
from dimesh_netsuite.sandbox.faults import NetSuiteFault
from dimesh_netsuite.sandbox.server import NetSuiteSandbox

__all__ = ["ACCOUNT", "Account", "NetSuiteFault", "NetSuiteSandbox", "Role"]

"""The base of sandboxes: local servers that behave as the API of a captured system does, failures included.

A source's plugin ships one, so that the connector can be tested over real HTTP, tried out and demonstrated without an
account. A subclass of :class:`Sandbox` answers the requests of the API; the base serves them on loopback, plans faults,
offers a page to change objects by hand, and keeps web pages of other origins out.

Needs the extra ``dimesh[sandbox]`` (starlette, uvicorn); nothing in the core imports this package.
"""

from __future__ import annotations

from dimesh.errors import PluginError

try:
    import starlette as _starlette  # noqa: F401
    import uvicorn as _uvicorn  # noqa: F401
except ImportError as error:
    raise PluginError(f"a sandbox needs {error.name}: pip install 'dimesh[sandbox]'") from error

from dimesh.sourcekit.sandbox.answers import JSON
from dimesh.sourcekit.sandbox.base import Sandbox
from dimesh.sourcekit.sandbox.command import add_port, bounded_count, command_parser, run_sandbox
from dimesh.sourcekit.sandbox.control import Control, Controls, NoBody, RowCount, checked
from dimesh.sourcekit.sandbox.faults import Fault, FaultPlan, Status, TransportFault
from dimesh.sourcekit.sandbox.page import Action, Page
from dimesh.sourcekit.sandbox.state import BASE62, Refused, Row, SimulatedState

__all__ = [
    "BASE62",
    "JSON",
    "Action",
    "Control",
    "Controls",
    "Fault",
    "FaultPlan",
    "NoBody",
    "Page",
    "Refused",
    "Row",
    "RowCount",
    "Sandbox",
    "SimulatedState",
    "Status",
    "TransportFault",
    "add_port",
    "bounded_count",
    "checked",
    "command_parser",
    "run_sandbox",
]

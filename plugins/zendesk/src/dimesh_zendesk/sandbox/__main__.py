"""``python -m dimesh_zendesk.sandbox``, or ``dimesh sandbox zendesk``: the sandbox as a command."""

from __future__ import annotations

import argparse
import sys

from dimesh.sourcekit.sandbox import bounded_count, command_parser, run_sandbox
from dimesh_zendesk.sandbox.server import MAX_ROWS, ZendeskSandbox


def build(options: argparse.Namespace) -> ZendeskSandbox:
    """Return the sandbox that the command line describes."""
    sandbox = ZendeskSandbox(options.port, hold_back=options.hold_back, exports_a_minute=options.exports)
    sandbox.account.seed("tickets", options.tickets)
    return sandbox


def main() -> int:
    """Run the command, and return its exit code."""
    parser = command_parser(
        "dimesh_zendesk.sandbox", "Run a local server that behaves as Zendesk's API does.", 12_115
    )
    parser.add_argument(
        "--tickets",
        type=bounded_count(MAX_ROWS),
        default=10,
        help="number of tickets at the start; they were created in the months before (default: 10)",
    )
    parser.add_argument(
        "--hold-back",
        type=bounded_count(3_600),
        default=60,
        help="seconds for which exports hold changes back; Zendesk's are 60 (default: 60)",
    )
    parser.add_argument(
        "--exports",
        type=bounded_count(1_000_000),
        default=10,
        help="number of export requests that are allowed per minute; Zendesk's are 10 (default: 10)",
    )
    return run_sandbox(parser, build)


if __name__ == "__main__":
    sys.exit(main())

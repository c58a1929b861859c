"""``python -m dimesh_salesforce.sandbox``, or ``dimesh sandbox salesforce``: the sandbox as a command."""

from __future__ import annotations

import argparse
import sys

from dimesh.sourcekit.sandbox import add_port, bounded_count, command_parser, run_sandbox
from dimesh_salesforce.sandbox.server import SalesforceSandbox


def build(options: argparse.Namespace) -> SalesforceSandbox:
    """Return the sandbox that the command line describes."""
    sandbox = SalesforceSandbox(port=options.port, grpc_port=options.grpc_port, keep_alive=options.keep_alive)
    sandbox.org.seed("Account", options.accounts)
    return sandbox


def main() -> int:
    """Run the command, and return its exit code."""
    parser = command_parser(
        "dimesh_salesforce.sandbox", "Run a local server that behaves as Salesforce's APIs do.", 12_112
    )
    add_port(parser, "--grpc-port", 12_113, "port of the Pub/Sub API; 0 takes a free one")
    parser.add_argument(
        "--accounts",
        type=bounded_count(),
        default=10,
        help="number of accounts at the start; they have no change events (default: 10)",
    )
    parser.add_argument(
        "--keep-alive",
        type=float,
        default=2.0,
        metavar="SECONDS",
        help="seconds between the empty responses of a stream without events (default: 2)",
    )
    return run_sandbox(parser, build)


if __name__ == "__main__":
    sys.exit(main())

"""``python -m dimesh_netsuite.sandbox``, or ``dimesh sandbox netsuite``: the sandbox as a command."""

from __future__ import annotations

import argparse
import os
import sys
from functools import partial

from dimesh.sourcekit.sandbox import bounded_count, command_parser, run_sandbox
from dimesh_netsuite.sandbox.server import MAX_ROWS, NetSuiteSandbox, row_of


def build(options: argparse.Namespace) -> NetSuiteSandbox:
    """Return the sandbox that the command line describes."""
    sandbox = NetSuiteSandbox(options.port, zone=options.zone)
    for name in options.seed.split(","):
        if name in sandbox.names():
            sandbox.account.seed(name, options.rows, partial(row_of, name))
    if options.key is not None:
        with os.fdopen(os.open(options.key, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(sandbox.security.private_key())
    return sandbox


def main() -> int:
    """Run the command, and return its exit code."""
    parser = command_parser(
        "dimesh_netsuite.sandbox",
        "Run a local server that behaves as NetSuite's REST web services do.",
        12_113,
    )
    parser.add_argument(
        "--rows",
        type=bounded_count(MAX_ROWS),
        default=10,
        help="number of rows of each seeded table at the start; they were changed in the year before (default: 10)",
    )
    parser.add_argument(
        "--seed",
        default="customer",
        metavar="TABLES",
        help="the tables to seed, with commas (default: customer)",
    )
    parser.add_argument(
        "--zone",
        default="America/Los_Angeles",
        help="the time zone of the account (default: America/Los_Angeles)",
    )
    parser.add_argument(
        "--key",
        metavar="FILE",
        help="write the private key of OAuth 2.0 client credentials to this file; client_id is sandbox-client-id, certificate_id "
        "sandbox-certificate",
    )
    return run_sandbox(parser, build)


if __name__ == "__main__":
    sys.exit(main())

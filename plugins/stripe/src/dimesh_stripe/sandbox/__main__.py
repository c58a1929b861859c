"""``python -m dimesh_stripe.sandbox``, or ``dimesh sandbox stripe``: the sandbox as a command."""

from __future__ import annotations

import argparse
import sys

from dimesh.sourcekit.sandbox import bounded_count, command_parser, run_sandbox
from dimesh_stripe.sandbox.server import MAX_OBJECTS, StripeSandbox


def build(options: argparse.Namespace) -> StripeSandbox:
    """Return the sandbox that the command line describes."""
    sandbox = StripeSandbox(options.port)
    sandbox.account.seed("customer", options.customers, lambda n: {"name": f"Customer {n}"})
    return sandbox


def main() -> int:
    """Run the command, and return its exit code."""
    parser = command_parser(
        "dimesh_stripe.sandbox", "Run a local server that behaves as Stripe's API does.", 12_111
    )
    parser.add_argument(
        "--customers",
        type=bounded_count(MAX_OBJECTS),
        default=10,
        help="number of customers at the start; they were created in the months before and have no events (default: 10)",
    )
    return run_sandbox(parser, build)


if __name__ == "__main__":
    sys.exit(main())

"""``python -m dimesh_contracts.history FILE``: judge a history."""

from __future__ import annotations

import argparse
import sys
from collections import Counter

from dimesh_contracts.history.checker import check
from dimesh_contracts.history.entries import read


def main() -> int:
    """Print the violations. Return 1 if there are any, and 2 if the file cannot be read."""
    parser = argparse.ArgumentParser(prog="python -m dimesh_contracts.history", description=__doc__)
    parser.add_argument("file")
    parser.add_argument(
        "--complete", action="store_true", help="the run ended idle: what was not handled is lost"
    )
    parser.add_argument(
        "--repeats-per-interruption",
        type=int,
        help="how many events a crash or hand-over may cause to come again",
    )
    parser.add_argument("--unordered", action="store_true", help="the backend promises no order")
    arguments = parser.parse_args()
    try:
        history = read(arguments.file)
        violations = check(
            history,
            complete=arguments.complete,
            repeats_per_interruption=arguments.repeats_per_interruption,
            ordered=not arguments.unordered,
        )
    except (OSError, ValueError) as error:
        print(f"{arguments.file}: {error}", file=sys.stderr)  # noqa: T201
        return 2
    counts = Counter(type(entry).__name__ for entry in history)
    print(", ".join(f"{count} {name}" for name, count in sorted(counts.items())) or "nothing")  # noqa: T201
    for violation in violations:
        print(violation)  # noqa: T201
    print(f"{len(violations)} violations")  # noqa: T201
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())

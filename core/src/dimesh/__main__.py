"""``python -m dimesh`` is the ``dimesh`` command."""

from __future__ import annotations

from dimesh.cli.main import main

if __name__ == "__main__":
    main()

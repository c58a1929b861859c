"""``python -m dimesh`` is the ``dimesh`` command."""

from __future__ import annotations

import os
import sys

if __name__ == "__main__" and sys.path and sys.path[0] == os.getcwd():
    # 'python -m' puts the working folder first, where a file json.py would replace the standard library's.
    sys.path.append(sys.path.pop(0))

from dimesh.cli.main import main

if __name__ == "__main__":
    main()

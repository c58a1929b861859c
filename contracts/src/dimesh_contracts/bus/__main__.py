"""``python -m dimesh_contracts.bus TASK`` plays a role of :mod:`dimesh_contracts.bus.victim`."""

from __future__ import annotations

import asyncio
import sys

from dimesh_contracts.bus.victim import main

asyncio.run(main(sys.argv[1]))

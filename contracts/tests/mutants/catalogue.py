"""What a mutant is, and where they are listed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from dimesh_contracts.contract import Guarantee


class Mutant(NamedTuple):
    """A plugin with one fault."""

    name: str
    breaks: Guarantee
    """The guarantee that the kit must name."""
    fault: str
    """What it does wrong, in words."""
    make: Callable[[Path], Any]
    """Makes an instance over the storage in a folder."""


def catalogue() -> dict[str, Mutant]:
    """All mutants, as ``kind.name``."""
    import bus
    import cdc
    import lineage
    import queues
    import registry

    return {
        f"{module.__name__}.{mutant.name}": mutant
        for module in (bus, queues, registry, cdc, lineage)
        for mutant in module.MUTANTS
    }

"""The demo: the scenarios of the specification, run on the embedded default."""

from __future__ import annotations

from dimesh.demo.show import run_demo

__all__ = ["run_demo"]

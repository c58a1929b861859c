"""The demo: the user's document, run for real on the embedded default."""

from __future__ import annotations

from dimesh.demo.show import run_demo

__all__ = ["run_demo"]

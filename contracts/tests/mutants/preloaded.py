"""Imports what the suite of any mutant needs, so that the processes of run.py begin with it. Each of them is a copy of one process."""

import importlib

from catalogue import catalogue

for name in ("hypothesis.strategies", "pytest", "pytest_asyncio", "pytest_timeout"):
    importlib.import_module(name)
catalogue()

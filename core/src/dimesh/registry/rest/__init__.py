"""Confluent's REST API over a registry, as an ASGI application: see :class:`RegistryApp`."""

from __future__ import annotations

from dimesh.registry.rest.access import Access
from dimesh.registry.rest.application import MAX_BODY, PREFIX, RegistryApp

__all__ = ["MAX_BODY", "PREFIX", "Access", "RegistryApp"]

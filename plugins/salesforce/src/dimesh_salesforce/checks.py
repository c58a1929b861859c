"""Checks which objects of an org can be captured."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Final

from dimesh.errors import CDCError, CredentialsError, SourceObjectError, SourceUnavailableError
from dimesh.sourcekit.budget import Priority
from dimesh.spi.cdc import CheckResult
from dimesh_salesforce.client import Client
from dimesh_salesforce.objects import BY_PARENT, event_name, is_polled, refusal, topic_of
from dimesh_salesforce.streaming import Streaming

_MAX_CHECKS: Final = 8
"""The number of objects that are asked for at the same time."""


async def check(client: Client, streaming: Streaming, channels: Iterable[str]) -> CheckResult:
    """Check which objects can be captured, and what prevents the capture of the others."""
    problems: list[str] = []
    found: dict[str, str] = {}
    try:
        listed = await client.get(client.path("sobjects"), {}, Priority.CHECK, "the list of objects")
    except (CDCError, OSError) as error:
        return CheckResult(False, {}, [str(error)])
    names = {entry["name"] for entry in listed["sobjects"]}
    queryable = {entry["name"] for entry in listed["sobjects"] if entry.get("queryable")}
    found |= {
        name: ""
        for name in queryable
        if is_polled(name) and not refusal(name) and BY_PARENT.get(name, name) in queryable
    }
    able = [
        name for name in queryable if event_name(name) in names and not (is_polled(name) or refusal(name))
    ]
    found |= {name: f"cannot be captured: {reason}" for name in names if (reason := refusal(name))}
    gate = asyncio.Semaphore(_MAX_CHECKS)

    async def check_one(name: str) -> None:
        async with gate:
            try:
                info = await streaming.topic(topic_of(name))
                found[name] = "" if info.can_subscribe else "the user may not subscribe to its changes"
            except (SourceObjectError, SourceUnavailableError) as error:
                found[name] = str(error)

    try:
        await asyncio.gather(*(check_one(name) for name in [*able, *channels]))
    except CredentialsError as error:
        problems.append(str(error))
    return CheckResult(not problems, dict(sorted(found.items())), problems)

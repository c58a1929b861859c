"""Names of objects: their topics, which of them have no change events, and the reason for which some cannot be captured.

Sources: SOQL and SOSL Reference (*SOQL limits*, *Big objects*, *External objects*), Object Reference (*ActivityHistory*), Change
Data Capture Developer Guide (its lists of objects), airbytehq/airbyte (``source-salesforce/api.py``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

_FILTERS: Final[Mapping[str, str]] = {
    "ContentFolderItem": "ParentContentFolderId",
    "ContentHubItem": "ContentHubRepositoryId or ParentId",
    "FieldDefinition": "EntityDefinitionId",
    "IdeaComment": "CommunityId or IdeaId",
    "Vote": "ParentId",
}
"""The objects that Salesforce lists by a filter only, and the fields of the filter."""
_ACTIVITIES: Final = ("ActivityHistory", "OpenActivity")
_SELECTIONS: Final = ("NewsFeed", "UserProfileFeed")
_BESIDE: Final = ("History", "Share", "Feed")
"""The endings of objects beside another one."""
BY_PARENT: Final[Mapping[str, str]] = {"ContentDocumentLink": "ContentDocument"}
"""The objects whose rows are listed by the ids of another object's rows, and that object (Object Reference,
*ContentDocumentLink*; airbytehq/airbyte #33342)."""
NEEDS_FILTER: Final = ("requires a filter", "filter on a reified column", "Implementation restriction")
"""Texts of MALFORMED_QUERY where rows are listed by a filter only."""


def refusal(object: str) -> str:
    """Return the reason for which an object cannot be captured; empty if there is none."""
    if object.endswith("__b"):
        return (
            "it is a big object: queries need a filter in the order of its index, and it has no change events"
        )
    if object.endswith("__x"):
        return "it is an external object: Salesforce does not track changes of rows that another system has"
    if object in _ACTIVITIES:
        return "it can only be described: capture Task and Event instead"
    if object in _FILTERS:
        return (
            f"Salesforce lists its rows by {_FILTERS[object]} only, so that they can never be read as a whole"
        )
    if object in _SELECTIONS:
        return "it shows a selection from the feeds of other objects: capture these, such as AccountFeed"
    return ""


def is_polled(object: str) -> bool:
    """Return whether an object is polled and listed again, since it has no change events."""
    return object in BY_PARENT or any(object.endswith(end) and object != end for end in _BESIDE)


def is_append_only(object: str) -> bool:
    """Return whether rows of an object are only inserted, and deleted with the rows that they are about."""
    return is_polled(object) and object.endswith("History")


def parent_of(object: str) -> str:
    """Return the object whose rows the rows of an object belong to, for those whose deletes leave no trace; empty for others."""
    if object in BY_PARENT:
        return BY_PARENT[object]
    if not is_polled(object) or not object.endswith("Share"):
        return ""
    name = object.removesuffix("Share")
    return f"{name}c" if name.endswith("__") else name


def event_name(object: str) -> str:
    """Return the name of an object's change events."""
    return f"{object[:-3]}__ChangeEvent" if object.endswith("__c") else f"{object}ChangeEvent"


def topic_of(object: str) -> str:
    """Return the topic of an object, or of a channel, which is one."""
    return object if object.startswith("/data/") else f"/data/{event_name(object)}"

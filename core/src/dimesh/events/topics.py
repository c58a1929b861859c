"""The standard topics, and the topic that belongs to a pillar."""

from __future__ import annotations

import re
from hashlib import sha256
from typing import Final

from dimesh.events.names import MAX_TOPIC, check_topic

DEAD_LETTER_SUFFIX: Final = ".dlq"


class Topics:
    """The names of the standard topics."""

    MISSION = "pillar.mission"
    PRODUCT = "pillar.product"
    GROWTH = "pillar.growth"
    CUSTOMER = "pillar.customer"
    SUPPLY = "pillar.supply"
    PEOPLE = "pillar.people"
    INTEL = "pillar.intel"
    PLATFORM = "pillar.platform"

    ALERTS = "system.alerts"
    METRICS = "system.metrics"
    AUDIT = "system.audit"
    POLICY = "system.policy"

    CDC_SALESFORCE = "cdc.salesforce"
    CDC_NETSUITE = "cdc.netsuite"
    CDC_STRIPE = "cdc.stripe"
    CDC_ZENDESK = "cdc.zendesk"

    PILLARS: Final[dict[str, str]] = {
        "Mission & Governance": MISSION,
        "Product & Experience": PRODUCT,
        "Growth Engine": GROWTH,
        "Customer Success": CUSTOMER,
        "Resource & Supply": SUPPLY,
        "People & Culture": PEOPLE,
        "Intelligence & Improvement": INTEL,
        "Platform & Infra": PLATFORM,
    }

    @classmethod
    def for_pillar(cls, name: str) -> str:
        """Return the topic of a pillar: that of a standard pillar, else ``pillar.<slug of the name>``.

        Raises:
            EventError: the name contains no letter or digit that the slug could be made of.
        """
        known = cls.PILLARS.get(name)
        if known is not None:
            return known
        slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
        return check_topic(f"pillar.{slug}" if slug else "")


def dead_letter_topic(topic: str) -> str:
    """Return the topic for events of ``topic`` that no handler could handle: its name with ``.dlq``.

    If that is longer than a name of a topic can be, the end of the name gives way to a digest of the whole name.
    """
    if topic.endswith(DEAD_LETTER_SUFFIX):
        return topic
    if len(topic) + len(DEAD_LETTER_SUFFIX) > MAX_TOPIC:
        digest = f"-{sha256(topic.encode()).hexdigest()[:16]}"
        topic = topic[: MAX_TOPIC - len(DEAD_LETTER_SUFFIX) - len(digest)] + digest
    return topic + DEAD_LETTER_SUFFIX

"""The standard topics and how a pillar's name becomes one."""

from __future__ import annotations

import re
from typing import Final

from dimesh.events.names import check_topic

DEAD_LETTER_SUFFIX: Final = ".dlq"


class Topics:
    """Names of the standard topics."""

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
        """The topic of a pillar: one of the eight, else ``pillar.<slug of the name>``.

        Raises:
            EventError: nothing of the name is left once it is made a slug.
        """
        known = cls.PILLARS.get(name)
        if known is not None:
            return known
        slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
        return check_topic(f"pillar.{slug}" if slug else "")


def dead_letter_topic(topic: str) -> str:
    """Where the events go that handlers of ``topic`` could not handle."""
    return topic if topic.endswith(DEAD_LETTER_SUFFIX) else topic + DEAD_LETTER_SUFFIX

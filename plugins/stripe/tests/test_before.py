"""The row before a change, from the old values that an event holds."""

from __future__ import annotations

from typing import Any

import pytest

from dimesh_stripe.changes import before_of


@pytest.mark.parametrize(
    ("row", "previous", "before"),
    [
        # Recorded three times: an empty old hash beside a hash with keys.
        ({"metadata": {"plan": "gold"}}, {"metadata": {}}, {"metadata": {}}),
        (
            {"metadata": {"plan": "gold", "seats": "3"}},
            {"metadata": {"plan": None}},
            {"metadata": {"seats": "3"}},
        ),
        ({"metadata": {"plan": "gold"}}, {"metadata": {"plan": "free"}}, {"metadata": {"plan": "free"}}),
        ({"metadata": {}}, {"metadata": {"plan": "gold"}}, {"metadata": {"plan": "gold"}}),
        # In a hash of fixed shape, null is a value.
        (
            {"address": {"city": "Bonn", "line2": "c/o", "state": None}},
            {"address": {"line2": None}},
            {"address": {"city": "Bonn", "line2": None, "state": None}},
        ),
        ({"address": {"city": "Bonn"}}, {"address": None}, {"address": None}),
        ({"address": None}, {"address": {"city": "Bonn"}}, {"address": {"city": "Bonn"}}),
        (
            {"shipping": {"address": {"city": "Bonn"}, "carrier": "x"}},
            {"shipping": {"address": {"city": None}}},
            {"shipping": {"address": {"city": None}, "carrier": "x"}},
        ),
        # At the top, null is a value as well: fields of a row do not come and go.
        ({"email": "a@b.example"}, {"email": None}, {"email": None}),
        # Currencies are keys that come and go; what is behind one is of fixed shape.
        (
            {"currency_options": {"eur": {"unit_amount": 5, "tiers": None}, "usd": {"unit_amount": 6}}},
            {"currency_options": {"usd": None, "eur": {"unit_amount": None}}},
            {"currency_options": {"eur": {"unit_amount": None, "tiers": None}}},
        ),
        ({"items": [1, 2]}, {"items": [1]}, {"items": [1]}),
    ],
)
def test_the_row_before(row: dict[str, Any], previous: dict[str, Any], before: dict[str, Any]) -> None:
    assert before_of(row, previous) == before

"""A local server that behaves as Stripe's API does, limits and nastiness included, for tests, demos and trying out::

    async with StripeSandbox() as stripe:
        customer = stripe.account.create("customer", {"email": "a@example.com"})
        ...  # a connector, or Stripe's own SDK, with api_base = stripe.url

It keeps everything in memory. What it does not have is payment: objects are what they are given.
"""

from __future__ import annotations

from dimesh_stripe.sandbox.account import Account
from dimesh_stripe.sandbox.faults import Fault, Faults
from dimesh_stripe.sandbox.server import StripeSandbox

__all__ = ["Account", "Fault", "Faults", "StripeSandbox"]

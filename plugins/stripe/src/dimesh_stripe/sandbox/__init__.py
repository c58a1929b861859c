"""A local server that behaves as Stripe's API does, limits and failures included, for tests, demos and trying out::

    async with StripeSandbox() as stripe:
        customer = stripe.account.create("customer", {"email": "a@example.com"})
        ...  # a connector, or Stripe's own SDK, with api_base = stripe.url

The sandbox keeps everything in memory. It knows no payments: an object has the fields that it is given.

Each behaviour follows a source, which the docstrings name as follows. *Reference*: Stripe's OpenAPI document and the API
reference made of it. *Recorded*: an answer that Stripe gave. *SDK*: the source of stripe-python. ``owner/repository
#number``: a thread of a connector or of Stripe's own tools that reports the behaviour. *No source*: nobody has reported the
behaviour of Stripe itself, but a proxy or a broken connection can show it. Stripe's own SDK runs against the sandbox in
the tests.
"""

from __future__ import annotations

from dimesh_stripe.sandbox.account import Account
from dimesh_stripe.sandbox.faults import StripeFault
from dimesh_stripe.sandbox.server import StripeSandbox

__all__ = ["Account", "StripeFault", "StripeSandbox"]

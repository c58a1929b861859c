"""Signatures of token-based authentication: OAuth 1.0a (RFC 5849) with HMAC-SHA256."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from collections.abc import Mapping
from urllib.parse import quote

from dimesh_netsuite.options import NetSuiteOptions


def authorization(
    options: NetSuiteOptions, method: str, url: str, params: Mapping[str, str], now: float
) -> str:
    """Return the header ``Authorization`` of one attempt. NetSuite refuses a nonce that it has seen, so each attempt needs its
    own.

    Args:
        options: with the keys of token-based authentication.
        method: the method of the request.
        url: the address without the query.
        params: the query.
        now: the time by NetSuite's clock.
    """
    assert options.consumer_key is not None
    assert options.consumer_secret is not None
    assert options.token_id is not None
    assert options.token_secret is not None
    oauth = {
        "oauth_consumer_key": options.consumer_key.reveal(),
        "oauth_token": options.token_id.reveal(),
        "oauth_signature_method": "HMAC-SHA256",
        "oauth_timestamp": str(int(now)),
        "oauth_nonce": secrets.token_hex(16),
        "oauth_version": "1.0",
    }
    secret = f"{escape(options.consumer_secret.reveal())}&{escape(options.token_secret.reveal())}"
    oauth["oauth_signature"] = signature(method, url, {**params, **oauth}, secret)
    fields = {"realm": options.realm, **oauth}
    return "OAuth " + ", ".join(f'{name}="{escape(value)}"' for name, value in fields.items())


def signature(method: str, url: str, params: Mapping[str, str], secret: str) -> str:
    """Return the signature of a request (RFC 5849, 3.4.1 and 3.4.2). A body in JSON is no part of it.

    Args:
        method: the method of the request.
        url: the address without the query.
        params: the query, and the parameters of OAuth without ``realm``.
        secret: both secrets, escaped, with ``&`` between them.
    """
    pairs = sorted((escape(name), escape(value)) for name, value in params.items())
    text = "&".join(f"{name}={value}" for name, value in pairs)
    base = "&".join((method.upper(), escape(url), escape(text)))
    digest = hmac.new(secret.encode(), base.encode(), hashlib.sha256).digest()
    return base64.b64encode(digest).decode()


def escape(text: str) -> str:
    """Return a text as OAuth escapes it (RFC 3986)."""
    return quote(text, safe="~")

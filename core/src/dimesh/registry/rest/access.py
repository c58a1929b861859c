"""Who may use a registry: basic and bearer authentication."""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Mapping, Sequence

from dimesh.secrets import Secret


class Access:
    """The credentials that a server accepts. Without any, it accepts everybody.

    Args:
        users: the passwords of users, by name, for basic authentication.
        tokens: the tokens for bearer authentication.
    """

    def __init__(self, users: Mapping[str, Secret] | None = None, tokens: Sequence[Secret] = ()) -> None:
        self._users = dict(users or {})
        self._tokens = list(tokens)

    @property
    def open(self) -> bool:
        """Whether everybody is accepted."""
        return not self._users and not self._tokens

    @property
    def challenges(self) -> tuple[tuple[bytes, bytes], ...]:
        """The headers that tell a client how to authenticate."""
        schemes = [
            *([b'Basic realm="dimesh registry"'] if self._users else []),
            *([b'Bearer realm="dimesh registry"'] if self._tokens else []),
        ]
        return tuple((b"www-authenticate", scheme) for scheme in schemes)

    def admits(self, authorization: bytes | None) -> bool:
        """Return whether a request with this ``Authorization`` header is accepted."""
        if self.open:
            return True
        scheme, _, value = (authorization or b"").strip().partition(b" ")
        value = value.strip()
        if scheme.lower() == b"bearer":
            return self._is_token(value)
        return scheme.lower() == b"basic" and self._is_login(value)

    def _is_token(self, value: bytes) -> bool:
        # Every token is compared, so that the time tells nothing about which one is similar.
        return sum(hmac.compare_digest(_bytes(token), value) for token in self._tokens) > 0

    def _is_login(self, value: bytes) -> bool:
        try:
            login = base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError):
            return False
        known = [f"{name}:".encode() + _bytes(password) for name, password in self._users.items()]
        return sum(hmac.compare_digest(one, login) for one in known) > 0


def _bytes(secret: Secret) -> bytes:
    return secret.reveal().encode("utf-8", "surrogatepass")

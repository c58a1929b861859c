"""How clients authenticate with the broker: TLS and SASL."""

from __future__ import annotations

import asyncio
import json
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

from aiokafka.abc import AbstractTokenProvider

from dimesh.errors import BusError, ConfigurationError
from dimesh.secrets import Secret
from dimesh_kafka.options import WHERE, KafkaOptions


def connection(options: KafkaOptions) -> dict[str, Any]:
    """Return the arguments that every client takes.

    Raises:
        ConfigurationError: credentials are given without their mechanism or the other way round, a password would be sent
            unencrypted, or a file cannot be read.
    """
    found: dict[str, Any] = {
        "bootstrap_servers": [address.strip() for address in options.bootstrap_servers.split(",")],
        "client_id": options.client_id,
        "request_timeout_ms": int(options.request_timeout * 1000),
        "security_protocol": ("SASL_" if options.sasl_mechanism else "")
        + ("SSL" if options.tls else "PLAINTEXT"),
        "ssl_context": _context(options) if options.tls else None,
    }
    if not options.tls and (options.tls_ca or options.tls_cert or options.tls_key):
        raise _error("tls_ca, tls_cert and tls_key need an encrypted connection: set tls = true")
    return found | _sasl(options)


def _context(options: KafkaOptions) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=options.tls_ca)
    except (OSError, ssl.SSLError) as error:
        raise _error(f"tls_ca: cannot read certificates from {options.tls_ca}: {_reason(error)}") from error
    if not options.tls_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if options.tls_key is not None and options.tls_cert is None:
        raise _error("tls_key is given without tls_cert")
    if options.tls_cert is not None:
        try:
            context.load_cert_chain(options.tls_cert, options.tls_key, _reveal(options.tls_key_password))
        except (OSError, ssl.SSLError) as error:
            raise _error(
                f"tls_cert: cannot use {options.tls_cert}"
                f"{f' with {options.tls_key}' if options.tls_key else ''}: {_reason(error)}"
            ) from error
    return context


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or getattr(error, "reason", None) or type(error).__name__


def _sasl(options: KafkaOptions) -> dict[str, Any]:
    mechanism = options.sasl_mechanism
    if mechanism is None:
        if (
            options.sasl_username
            or options.sasl_password
            or options.oauth_token_file
            or options.oauth_token_url
        ):
            raise _error(
                "credentials are given without sasl_mechanism: PLAIN, SCRAM-SHA-256, SCRAM-SHA-512 or OAUTHBEARER"
            )
        return {}
    if mechanism == "OAUTHBEARER":
        return {"sasl_mechanism": mechanism, "sasl_oauth_token_provider": _token_provider(options)}
    if not options.sasl_username or not options.sasl_password:
        raise _error(f"sasl_mechanism {mechanism} needs sasl_username and sasl_password")
    if mechanism == "PLAIN" and not options.tls:
        raise _error(
            "sasl_mechanism PLAIN sends the password unencrypted: set tls = true, or use SCRAM-SHA-512"
        )
    return {
        "sasl_mechanism": mechanism,
        "sasl_plain_username": options.sasl_username,
        "sasl_plain_password": options.sasl_password.reveal(),
    }


def _token_provider(options: KafkaOptions) -> AbstractTokenProvider:
    if options.oauth_token_file and options.oauth_token_url:
        raise _error("set oauth_token_file or oauth_token_url, not both")
    if options.oauth_token_file:
        return _TokenFile(options.oauth_token_file)
    if options.oauth_token_url:
        if not options.oauth_client_id or not options.oauth_client_secret:
            raise _error("oauth_token_url needs oauth_client_id and oauth_client_secret")
        if not options.oauth_token_url.startswith(("https://", "http://127.0.0.1", "http://localhost")):
            raise _error("oauth_token_url must begin with https://, since the client secret is sent there")
        return _ClientCredentials(options)
    raise _error("sasl_mechanism OAUTHBEARER needs oauth_token_file or oauth_token_url")


class _TokenFile(AbstractTokenProvider):  # type: ignore[misc]
    """A token that somebody else keeps up to date in a file."""

    def __init__(self, path: str) -> None:
        self._path = Path(path)

    async def token(self) -> str:
        try:
            text = await asyncio.to_thread(self._path.read_text, "ascii")
        except (OSError, UnicodeDecodeError) as error:
            raise BusError(f"oauth_token_file: cannot read {self._path}: {_reason(error)}") from error
        return text.strip()


class _ClientCredentials(AbstractTokenProvider):  # type: ignore[misc]
    """The grant of RFC 6749, section 4.4; a token is used until a minute before it expires."""

    def __init__(self, options: KafkaOptions) -> None:
        self._url = str(options.oauth_token_url)
        self._form = {"grant_type": "client_credentials", "client_id": str(options.oauth_client_id)}
        if options.oauth_scope:
            self._form["scope"] = options.oauth_scope
        self._secret = options.oauth_client_secret
        self._timeout = options.request_timeout
        self._token = ""
        self._until = 0.0

    async def token(self) -> str:
        if time.monotonic() >= self._until:
            self._token, lifetime = await asyncio.to_thread(self._fetch)
            self._until = time.monotonic() + max(lifetime - 60.0, 0.0)
        return self._token

    def _fetch(self) -> tuple[str, float]:
        form = {**self._form, "client_secret": _reveal(self._secret)}
        body = urllib.parse.urlencode(form).encode("ascii")
        try:
            # The scheme was checked with the options.
            with urllib.request.urlopen(self._url, body, self._timeout) as answer:  # noqa: S310
                found = json.load(answer)
            return str(found["access_token"]), float(found.get("expires_in", 300.0))
        except urllib.error.HTTPError as error:
            raise BusError(f"no OAuth token from {self._url}: the server answered {error.code}") from error
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise BusError(f"no OAuth token from {self._url}: {_reason(error)}") from error


def _reveal(secret: Secret | None) -> str:
    return "" if secret is None else secret.reveal()


def _error(text: str) -> ConfigurationError:
    return ConfigurationError(text, subject=WHERE)

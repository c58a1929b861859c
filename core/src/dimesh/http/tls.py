"""TLS of the host, from files."""

from __future__ import annotations

import ssl
from pathlib import Path

from dimesh.errors import ConfigurationError


def server_context(certificate: Path, key: Path | None = None) -> ssl.SSLContext:
    """Return the TLS context of a server.

    Args:
        certificate: a PEM file with the certificate and its chain.
        key: a PEM file with the private key, without a passphrase; None: it is in the certificate's file.

    Raises:
        ConfigurationError: a file cannot be read, is not PEM, or the key does not fit the certificate.
    """
    for path in (certificate, key):
        try:
            if path is not None:
                path.read_bytes()
        except OSError as error:
            raise ConfigurationError(f"the TLS file {path} cannot be read: {error.strerror}") from error
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(certificate, key, password=_refuse_passphrase)
    except ssl.SSLError as error:
        raise ConfigurationError(
            f"the TLS certificate {certificate} and key {key or certificate} cannot be used: "
            f"{error.reason or error}"
        ) from error
    return context


def _refuse_passphrase() -> str:
    # Without this OpenSSL would ask at the terminal, and a service would wait there for ever.
    raise ConfigurationError("the TLS key has a passphrase: use a key without one")

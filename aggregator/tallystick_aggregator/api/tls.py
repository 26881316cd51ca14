"""TLS of both edges: PEM texts, and the files that they come from, which are read again when they change (fault A9)."""

import logging
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

LOOK_EVERY_S: Final = 10.0

_log: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Tls:
    """PEM texts. With `client_ca`, callers need a certificate that it signed (mutual TLS)."""

    certificate: bytes
    key: bytes = field(repr=False)
    client_ca: bytes | None = None


class TlsFiles:
    """The certificate and its key as files; `current` is what they held when they last fitted together.

    New connections are made with what is current. The authority of callers' certificates is read once.
    """

    def __init__(self, certificate: Path, key: Path, current: Tls) -> None:
        self.certificate_file, self.key_file, self.current = certificate, key, current
        self._listeners: list[Callable[[], None]] = []

    @property
    def client_ca(self) -> bytes | None:
        """The authority of callers' certificates, in PEM."""
        return self.current.client_ca

    def on_change(self, listener: Callable[[], None]) -> None:
        """Call this after each change."""
        self._listeners.append(listener)

    async def look(self) -> None:
        """Read the files again; what does not fit together changes nothing: a file may be half written."""
        try:
            certificate, key = self.certificate_file.read_bytes(), self.key_file.read_bytes()
            if (certificate, key) == (self.current.certificate, self.current.key):
                return
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(self.certificate_file, self.key_file)
        except (OSError, ssl.SSLError) as error:
            file = self.certificate_file
            _log.warning("%s and its key cannot be used, so the certificate before stays: %s", file, error)
            return
        self.current = Tls(certificate, key, self.current.client_ca)
        for listener in self._listeners:
            listener()
        _log.info("read the certificate %s again", self.certificate_file)

    def server_context(self) -> ssl.SSLContext:
        """Make what a server accepts connections with; it follows the files."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        if self.current.client_ca is not None:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(cadata=self.current.client_ca.decode())
        context.load_cert_chain(self.certificate_file, self.key_file)
        self.on_change(lambda: context.load_cert_chain(self.certificate_file, self.key_file))
        return context

"""TLS for the control plane: a connection of redis-py's whose socket is secured by our settings.

redis-py's own way has no name of the server other than the host, and tells what went wrong in its own words.
"""

import ssl
from typing import Any

import attrs
import redis

from bisync.config import Site
from bisync.runtime.tls_errors import open_context, server_name, tls_error

ANSWER_BYTES_MAX = 1 << 12
HANDSHAKE_S = 5.0  # for each step; a later answer to a question may take longer


@attrs.frozen
class Secured:
    """What was agreed on with a server."""

    version: str  # as OpenSSL names it: TLSv1.3
    cipher: str
    expires_s: float | None  # Unix time at which the server's certificate expires; None: it does not say


class SecuredConnection(redis.Connection):
    """As redis-py's, with TLS. Raises SiteError where TLS fails."""

    def __init__(self, *, site: Site, **options: Any) -> None:
        super().__init__(**options)  # type: ignore[no-untyped-call]
        self._site = site
        self.secured: Secured | None = None  # None: not connected yet

    def _connect(self) -> ssl.SSLSocket:
        context = open_context(self._site)
        plain = super()._connect()  # type: ignore[no-untyped-call]
        wait_s = plain.gettimeout()
        plain.settimeout(HANDSHAKE_S if wait_s is None else min(wait_s, HANDSHAKE_S))
        try:
            secured = context.wrap_socket(plain, server_hostname=server_name(self._site))
        except OSError as e:
            plain.close()
            raise tls_error(self._site, e) from None
        try:
            _confirm(secured)
        except OSError as e:
            secured.close()
            raise tls_error(self._site, e) from None
        secured.settimeout(wait_s)
        self.secured = _secured(secured)
        return secured


def _secured(socket: ssl.SSLSocket) -> Secured:
    cipher, end = socket.cipher(), (socket.getpeercert() or {}).get("notAfter")
    expires_s = ssl.cert_time_to_seconds(end) if isinstance(end, str) else None
    return Secured(socket.version() or "TLS", cipher[0] if cipher else "", expires_s)


def _confirm(secured: ssl.SSLSocket) -> None:
    """Ask something, whatever the answer. With TLS 1.3 only that tells whether the server took our certificate."""
    try:
        secured.sendall(b"PING\r\n")
    except OSError:
        secured.recv(1)  # raises what the server said before it hung up
        raise
    answer = b""
    while not answer.endswith(b"\n") and len(answer) < ANSWER_BYTES_MAX:
        piece = secured.recv(ANSWER_BYTES_MAX)
        if not piece:
            raise ConnectionResetError("the server closed the connection after the handshake")
        answer += piece

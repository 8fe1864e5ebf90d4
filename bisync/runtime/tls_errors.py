"""What a failed TLS handshake means: one clear SiteError for each kind of failure.

A server that expects plain Redis says nothing to a TLS greeting, and one that expects TLS hangs up on a plain one. So
where it is not clear what went wrong, the other way is tried on a new connection, on which no password is sent.

Source: OpenSSL 3, `x509_vfy.h` (X509_V_ERR_*) and `sslerr.h`; RFC 8446, section 6.2 (alerts).
"""

import socket
import ssl

from bisync.config import Site
from bisync.errors import SiteError
from bisync.tls import WrongFile

TRY_S = 2.0  # for trying the other way
_NOT_YET_VALID, _EXPIRED, _SELF_SIGNED = 9, 10, (18, 19)
_WRONG_NAME = (62, 64)  # of a host, of an IP address
_WANTS_CERTIFICATE = ("CERTIFICATE_REQUIRED", "HANDSHAKE_FAILURE")
_REFUSES_CERTIFICATE = (
    *("ALERT_UNKNOWN_CA", "ALERT_BAD_CERTIFICATE", "ALERT_CERTIFICATE_EXPIRED", "ALERT_CERTIFICATE_UNKNOWN"),
    *("ALERT_CERTIFICATE_REVOKED", "ALERT_UNSUPPORTED_CERTIFICATE", "ALERT_ACCESS_DENIED", "ALERT_DECRYPT_ERROR"),
)
_NO_VERSION = ("ALERT_PROTOCOL_VERSION", "UNSUPPORTED_PROTOCOL", "ALERT_INSUFFICIENT_SECURITY")
_HUNG_UP = (ConnectionError, ssl.SSLEOFError, ssl.SSLZeroReturnError)


def open_context(site: Site) -> ssl.SSLContext:
    """The settings for one connection to a site that is reached by TLS. Raises SiteError where a file is wrong."""
    assert site.endpoint.tls is not None
    try:
        return site.endpoint.tls.context()
    except WrongFile as e:
        what = f"what TLS needs for {site.endpoint.address} cannot be read"
        hint = f"mend the file of sites.{site.name}.{e.option}; it is read again for each connection"
        raise SiteError(site.name, what, why=f"{e.option}: {e}", hint=hint, heals=site.endpoint.met) from None


def server_name(site: Site) -> str:
    """The name that the server's certificate must be for."""
    assert site.endpoint.tls is not None
    return site.endpoint.tls.server_name or site.endpoint.host


def tls_error(site: Site, error: BaseException, *, asks: bool = True) -> SiteError:
    """The SiteError for a handshake, or what came after it, that failed with `error` (TimeoutError: no answer).

    `asks`: may it open a connection to find out more, and wait for TRY_S? A certificate that is refused heals where we
    were let in before: then it may just be being renewed.
    """
    where, why = site.endpoint.address, _words(error)
    if isinstance(error, ssl.SSLCertVerificationError):
        return _untrusted(site, error)
    reason, heals = getattr(error, "reason", None) or "", site.endpoint.met
    tls = site.endpoint.tls
    assert tls is not None
    if any(word in reason for word in _WANTS_CERTIFICATE) and tls.cert_file is None:
        what, hint = _no_certificate(where)
    elif any(word in reason for word in (*_REFUSES_CERTIFICATE, *_WANTS_CERTIFICATE)) and tls.cert_file is not None:
        what = f"{where} refuses the certificate that bisync shows"
        hint = "see that cert_file has not expired, and that the CA that signed it is in the server's tls-ca-cert-file"
    elif any(word in reason for word in _NO_VERSION):
        what = f"{where} and bisync have no version of TLS in common"
        hint = "let the server talk TLS 1.2 or 1.3 (tls-protocols)"
    elif asks and speaks_plainly(site):
        what = f"{where} talks plain Redis, and the job file's url asks for TLS"
        hint = "write the port for TLS (the server's tls-port), or redis:// where plain is meant"
    elif isinstance(error, _HUNG_UP) and tls.cert_file is None:
        heals = True
        what = f"{where} hangs up at the TLS handshake"
        hint = "see the server's log; if it wants a client certificate (tls-auth-clients), set cert_file and key_file"
    elif isinstance(error, TimeoutError):
        heals = True
        what = f"{where} did not answer the TLS handshake in time"
        hint = "see whether the server is alive and has TLS on this port, and whether a firewall stands between"
    else:
        heals = True
        what = f"the TLS handshake with {where} failed" if asks else f"TLS with {where} failed"
        hint = "see the server's log, and its tls-port"
    return SiteError(site.name, what, why=why, hint=hint, heals=heals)


def _no_certificate(where: str) -> tuple[str, str]:
    what = f"{where} wants a client certificate, and the job file names none"
    return what, "set cert_file and key_file, or tls-auth-clients no on the server"


def _untrusted(site: Site, error: ssl.SSLCertVerificationError) -> SiteError:
    """A certificate of the server that is not accepted."""
    where, code, tls = site.endpoint.address, error.verify_code, site.endpoint.tls
    assert tls is not None
    if code == _EXPIRED:
        what, hint = f"the certificate of {where} has expired", "renew it on the server, or set this machine's clock"
    elif code == _NOT_YET_VALID:
        what, hint = f"the certificate of {where} is not valid yet", "set this machine's clock, or the server's"
    elif code in _WRONG_NAME:
        what = f"the certificate of {where} is not for the name {server_name(site)!r}"
        hint = (
            "write the name that it is for as the host of the url or as server_name; it may be another server's"
            " certificate, so set check_name = false only if you know that it is not"
        )
    else:
        what = f"the certificate of {where} is signed by nobody whom bisync trusts"
        hint = "name the certificate of the CA that signed it in ca_file"
        if tls.ca_file is not None:
            hint = "ca_file has not the CA that signed it: add that CA's certificate to the file"
        if code in _SELF_SIGNED and tls.ca_file is None:
            hint = "it is signed by itself or by a CA of your own: name the certificate of that one in ca_file"
    return SiteError(site.name, what, why=error.verify_message, hint=hint, heals=site.endpoint.met)


def wants_tls(site: Site) -> SiteError:
    """The error for a site that talks TLS where the job file says plain."""
    what = f"{site.endpoint.address} talks TLS, and the job file's url asks for plain Redis"
    return SiteError(site.name, what, hint="write rediss:// in the site's url", heals=False)


def speaks_plainly(site: Site) -> bool:
    """Does it answer as a plain Redis server? Asked without a password; waits for TRY_S at most per step."""
    try:
        with socket.create_connection((site.endpoint.host, site.endpoint.port), TRY_S) as plain:
            plain.sendall(b"PING\r\n")
            answer = plain.recv(16)
    except OSError:
        return False
    return answer.startswith((b"+PONG", b"-NOAUTH", b"-DENIED", b"-LOADING", b"-ERR", b"-MASTERDOWN", b"-BUSY"))


def speaks_tls(site: Site) -> bool:
    """Does it answer a TLS greeting in kind? Nothing is trusted and nothing sent but the greeting."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    greeting = context.wrap_bio(incoming, outgoing, server_hostname=site.endpoint.host)
    try:
        greeting.do_handshake()
    except ssl.SSLWantReadError:
        pass
    try:
        with socket.create_connection((site.endpoint.host, site.endpoint.port), TRY_S) as secured:
            secured.sendall(outgoing.read())
            answer = secured.recv(16)
    except OSError:
        return False
    return answer[:2] in (b"\x16\x03", b"\x15\x03")  # a handshake's record, or an alert's


def _words(error: BaseException) -> str:
    """What the system said, without the file and line in OpenSSL's source."""
    if isinstance(error, ssl.SSLError) and error.reason:
        return error.reason.lower().replace("_", " ")
    return str(error) or type(error).__name__

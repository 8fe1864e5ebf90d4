"""How to reach a site: its URL, read so that a password in it is never shown.

A URL is `redis://user:password@host:port`. User and password are percent-decoded. The account ends at the last `@`,
whatever stands before it, so that even of a URL written wrongly no part of the password is taken for a host.
"""

import ipaddress
import re
import urllib.parse
from collections.abc import Iterator

import attrs

DEFAULT_PORT = 6379
EXAMPLE = '"redis://user:password@host:port"'
NOT_YET = ("rediss", "redis+sentinel", "redis+cluster")  # ways to reach a site that later versions will know
HIDDEN = "***"

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*")
_PORT = re.compile(r"[0-9]{1,5}")
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9_])?\.?")
_ADDRESS = re.compile(r"(?P<host>\[[^\]]*\]|[^:\[\]]*)(?::(?P<port>.*))?", re.DOTALL)


class Secret:
    """A password. Its text comes out of `reveal` alone, so that no log, traceback or repr shows it by accident."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """The password itself."""
        return self._text

    def __repr__(self) -> str:
        return HIDDEN

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._text == self._text

    def __hash__(self) -> int:
        return hash(self._text)

    def __reduce__(self) -> str:
        raise TypeError("a password is not pickled")


@attrs.frozen
class Endpoint:
    """A standalone server and the account there."""

    host: str  # a name or an IP address, an IPv6 one without its brackets
    port: int = DEFAULT_PORT
    user: str | None = None  # None: the server's default user
    password: Secret | None = None

    @property
    def address(self) -> str:
        """`host:port`, as one writes it in a URL."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def shown_url(text: str) -> str:
    """A URL, or a try at one, with all that may be a password replaced by `***`.

    Shown are the scheme, and after the last `@` the host, a port of digits and a database of digits; nothing else.
    """
    scheme, rest = _scheme(text)
    account, at, place = rest.rpartition("@")
    address, path, query = _place(place)
    match = _ADDRESS.fullmatch(address)
    host, port = (match["host"], match["port"]) if match else (HIDDEN, None)
    shown = f"{scheme}://" if scheme else ""
    shown += f"{HIDDEN}@" if at else ""
    shown += host if len(host) <= 80 else f"{host[:80]}..."
    if port is not None:
        shown += f":{port if port == '' or _PORT.fullmatch(port) else HIDDEN}"
    if path:
        shown += path if re.fullmatch(r"/[0-9]*", path) else f"/{HIDDEN}"
    return shown + (f"{query[0]}{HIDDEN}" if query else "")


def read_url(text: str) -> Endpoint:
    """The endpoint that a URL names. Raises ValueError that says what would be right, and shows nothing of the URL."""
    scheme, rest = _scheme(text)
    if scheme.lower() in NOT_YET:
        raise ValueError(f'{scheme}:// is not supported yet; expected "redis://host:port" of a standalone server')
    if scheme.lower() != "redis":
        raise ValueError(f"expected {EXAMPLE}")
    account, at, place = rest.rpartition("@")
    address, path, query = _place(place)
    wrong = [*_wrong_account(account), *_wrong_address(address), *_wrong_tail(path, query)]
    if wrong:
        raise ValueError("; ".join(wrong))
    match = _ADDRESS.fullmatch(address)
    assert match is not None
    user, _, password = account.partition(":")
    return Endpoint(
        host=match["host"].strip("[]"),
        port=int(match["port"] or DEFAULT_PORT),
        user=urllib.parse.unquote(user) or None,
        password=Secret(urllib.parse.unquote(password)) if password else None,
    )


def _scheme(text: str) -> tuple[str, str]:
    """The scheme, or nothing where there is none, and what follows it."""
    scheme, sep, rest = text.partition("://")
    return (scheme, rest) if sep and _SCHEME.fullmatch(scheme) else ("", text)


def _place(text: str) -> tuple[str, str, str]:
    """`host:port`, path and query of what follows the account; path and query with the sign that begins them."""
    address = re.split("[/?#]", text, maxsplit=1)[0]
    path = re.split("[?#]", text[len(address) :], maxsplit=1)[0]
    return address, path, text[len(address) + len(path) :]


def _wrong_account(account: str) -> Iterator[str]:
    user, colon, password = account.partition(":")
    if re.search(r"[/?#@\[\]\s]", account):
        yield "in a user or a password, / is written %2F, ? %3F, # %23, @ %40, a space %20, [ %5B and ] %5D"
    elif user and not password:
        yield f"a user without a password; expected {EXAMPLE}"
    try:
        urllib.parse.unquote(account, errors="strict")
    except UnicodeDecodeError:
        yield "the percent-encoded bytes of the user or the password are not UTF-8"


def _wrong_address(address: str) -> Iterator[str]:
    match = _ADDRESS.fullmatch(address)
    if match is None or ":" in (match["port"] or ""):
        yield "expected one host:port after the account, with an IPv6 address in brackets: redis://[::1]:6379"
        return
    host, port = match["host"], match["port"]
    if not host:
        yield f"no host; expected {EXAMPLE}"
    elif not (_HOST.fullmatch(host) or _is_ipv6(host)):
        yield "expected a host name or an IP address (an IPv6 one in brackets: redis://[::1]:6379)"
    if port is not None and not (_PORT.fullmatch(port) and 1 <= int(port) <= 65535):
        yield "expected a port from 1 to 65535"


def _is_ipv6(host: str) -> bool:
    try:
        ipaddress.IPv6Address(host[1:-1])
    except ValueError:
        return False
    return host.startswith("[")


def _wrong_tail(path: str, query: str) -> Iterator[str]:
    if path not in ("", "/", "/0"):
        yield "expected no database after the port: every database is synchronised; choose with [objects] databases"
    if query:
        yield f"expected nothing after the port, for no {'option' if query[0] == '?' else 'fragment'} is known here"

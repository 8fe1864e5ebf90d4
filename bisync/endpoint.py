"""How to reach a site: its URL, read so that a password in it is never shown.

A URL is `redis://user:password@host:port`, or `rediss://` where the server wants TLS. User and password are
percent-decoded. The account ends at the last `@`, whatever stands before it, so that even of a URL written wrongly no
part of the password is taken for a host.
"""

import ipaddress
import re
import urllib.parse
from collections.abc import Iterator

import attrs

from bisync.passwords import HIDDEN, Kept, Secret
from bisync.tls import Tls

__all__ = ["EXAMPLE", "HIDDEN", "Endpoint", "Login", "Secret", "read_url", "shown_url"]

DEFAULT_PORT = 6379
SEEN_MAX = 4  # logins that are remembered; one is old, one is new
EXAMPLE = '"redis://user:password@host:port"'
NOT_YET = ("redis+sentinel", "redis+cluster")  # ways to reach a site that later versions will know

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*")
_PORT = re.compile(r"[0-9]{1,5}")
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9_])?\.?")
_ADDRESS = re.compile(r"(?P<host>\[[^\]]*\]|[^:\[\]]*)(?::(?P<port>.*))?", re.DOTALL)


@attrs.frozen
class Login:
    """What a connection says first."""

    user: str | None  # None: the server's default user
    password: Secret | None


@attrs.frozen
class Endpoint:
    """A standalone server and the account there."""

    host: str  # a name or an IP address, an IPv6 one without its brackets
    port: int = DEFAULT_PORT
    user: str | None = None  # None: the server's default user, or the one that is `kept` with the password
    password: Secret | None = None
    tls: Tls | None = None  # None: in the clear
    kept: Kept | None = None  # where the password is, if not here
    _met: list[bool] = attrs.field(factory=lambda: [False], init=False, eq=False, repr=False)
    _seen: list[Login] = attrs.field(factory=list, init=False, eq=False, repr=False)  # the newest that were read

    @property
    def address(self) -> str:
        """`host:port`, as one writes it in a URL."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def account(self) -> str:
        """The name of the account that is used."""
        return self.user or (self._seen[-1].user if self._seen else None) or "default"

    @property
    def has_password(self) -> bool:
        """Is there a password, here or elsewhere?"""
        return self.password is not None or self.kept is not None

    @property
    def met(self) -> bool:
        """Were we let in before? Then what is wrong with a password or a certificate now may just be being changed."""
        return self._met[0]

    def meet(self) -> None:
        """We were let in."""
        self._met[0] = True

    @property
    def secrets(self) -> list[str]:
        """The passwords that were used of late, for whoever must hide them; the longest first."""
        logins = [Login(self.user, self.password), *self._seen]
        texts = {login.password.reveal() for login in logins if login.password is not None}
        return sorted(texts, key=len, reverse=True)

    def login(self) -> Login:
        """Account and password as they are now. Raises ValueError where they cannot be read, and says why."""
        if self.kept is None:
            return Login(self.user, self.password)
        login = self._split(self.kept.read().reveal())
        self._seen[:] = [*(seen for seen in self._seen if seen != login), login][-SEEN_MAX:]
        return login

    def _split(self, text: str) -> Login:
        """`password`, or `user:password` where the URL names no user."""
        if self.user is not None:
            return Login(self.user, Secret(text))
        user, colon, password = text.partition(":")
        if not colon:
            return Login(None, Secret(text))
        if not password:
            raise ValueError("there is no password after the colon; expected password or user:password")
        return Login(user or None, Secret(password))


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


def read_url(text: str, *, password_elsewhere: bool = False) -> Endpoint:
    """The endpoint that a URL names. Raises ValueError that says what would be right, and shows nothing of the URL.

    `password_elsewhere`: may the URL name a user without a password?
    """
    scheme, rest = _scheme(text)
    if scheme.lower() in NOT_YET:
        raise ValueError(f'{scheme}:// is not supported yet; expected "redis://host:port" of a standalone server')
    if scheme.lower() not in ("redis", "rediss"):
        raise ValueError(f"expected {EXAMPLE}")
    account, at, place = rest.rpartition("@")
    address, path, query = _place(place)
    wrong = [*_wrong_account(account, password_elsewhere), *_wrong_address(address), *_wrong_tail(path, query)]
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
        tls=Tls() if scheme.lower() == "rediss" else None,
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


def _wrong_account(account: str, password_elsewhere: bool) -> Iterator[str]:
    user, colon, password = account.partition(":")
    if re.search(r"[/?#@\[\]\s]", account):
        yield "in a user or a password, / is written %2F, ? %3F, # %23, @ %40, a space %20, [ %5B and ] %5D"
    elif user and not password and not (password_elsewhere and not colon):
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

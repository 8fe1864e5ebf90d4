"""One TCP connection to one server: bytes out, bytes or replies in. The network's errors become SiteError here."""

import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Self

import hiredis
import trio

from bisync.config import Site
from bisync.core.reply import read_refusal
from bisync.core.resp import pack
from bisync.errors import SiteError
from bisync.runtime.arrivals import RECEIVE_BYTES, Arrivals, Received
from bisync.runtime.control import clean
from bisync.runtime.passes import Passes

SILENCE_S = 60.0  # a server that says nothing for so long is taken for gone; `repl-timeout` has the same default
SEND_BYTES = 1 << 20  # for each of which the other side has SILENCE_S

_REFUSALS = {
    "WRONGPASS": "check the user and password in the job file's url",
    "NOAUTH": "put the password into the job file's url (redis://user:password@host:port)",
    "NOPERM": "let the account run the command (ACL SETUSER)",
    "ERR": "check the user and password in the job file's url",
}


class Connection:
    """An authenticated connection. Every method raises SiteError when the network or the server fails."""

    def __init__(self, site: Site, stream: trio.SocketStream) -> None:
        self.site, self._stream = site, stream
        self._parser = hiredis.Reader(notEnoughData=_MORE)
        self._received = 0  # bytes
        self._arrivals: Arrivals | None = None  # reads the socket from when it matters when bytes came

    def __repr__(self) -> str:
        return f"<Connection {self.site.name} {self.site.endpoint.address}>"

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, site: Site, timeout_s: float) -> AsyncIterator[Self]:
        """Connect and authenticate; closed at the end of the block."""
        endpoint = site.endpoint
        with _as_site_error(site):
            with trio.fail_after(timeout_s):
                stream = await trio.open_tcp_stream(endpoint.host, endpoint.port)
        async with stream:
            connection = cls(site, stream)
            try:
                await connection._greet(timeout_s)
                yield connection
            finally:
                if connection._arrivals is not None:
                    connection._arrivals.close()

    async def _greet(self, timeout_s: float) -> None:
        endpoint = self.site.endpoint
        if endpoint.password is not None:
            words = [w.encode() for w in (endpoint.user, endpoint.password.reveal()) if w is not None]
            reply = await self.request(b"AUTH", *words, timeout_s=timeout_s)
        else:
            reply = await self.request(b"PING", timeout_s=timeout_s)
        if isinstance(reply, Exception):
            raise refusal(self.site, reply)

    async def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        with _as_site_error(self.site):
            for at in range(0, len(data), SEND_BYTES):  # a slow line may need long for a big value
                with trio.fail_after(SILENCE_S):
                    await self._stream.send_all(data[at : at + SEND_BYTES])

    async def receive(self) -> bytes:
        """Some bytes, at least one."""
        with _as_site_error(self.site):
            with trio.fail_after(SILENCE_S):
                data = await self._stream.receive_some(RECEIVE_BYTES)
        self._received += len(data)
        return self._checked(bytes(data))

    def _checked(self, data: bytes) -> bytes:
        if not data:
            raise SiteError(self.site.name, "the server closed the connection", hint="bisync connects again by itself")
        return data

    async def receive_dated(self, passes: Passes) -> Received:
        """Some bytes, at least one, and between which times they came."""
        with _as_site_error(self.site):
            if self._arrivals is None:
                self._arrivals = Arrivals(self._stream, self._received, passes)
            with trio.fail_after(SILENCE_S):
                received = await self._arrivals.read()
        self._checked(received.data)
        return received

    async def request(self, *args: bytes | int, timeout_s: float = SILENCE_S) -> object:
        """Send one command and return its reply; an error reply is returned, not raised."""
        await self.send(pack(*args))
        try:
            with trio.fail_after(timeout_s):
                return (await self.replies(1))[0]
        except trio.TooSlowError:
            raise SiteError(
                self.site.name, f"no answer from {self.site.endpoint.address} for {timeout_s:g} s"
            ) from None

    async def replies(self, n: int) -> list[object]:
        """The next `n` replies."""
        got: list[object] = []
        while True:
            try:
                while len(got) < n and (reply := self._parser.gets()) is not _MORE:
                    got.append(reply)
            except hiredis.ProtocolError:
                raise SiteError(
                    self.site.name,
                    f"{self.site.endpoint.address} answers, but not as Redis does",
                    hint="check host and port in the job file",
                    heals=False,
                ) from None
            if len(got) == n:
                return got
            self._parser.feed(await self.receive())


_MORE = object()


def refusal(site: Site, error: Exception) -> SiteError:
    """An error reply to a connection's first commands, as an error with a next step."""
    read = read_refusal([error])
    text = clean(site, read.text)
    word = text.split(" ", 1)[0]
    if read.heals or "max number of clients" in text:
        return SiteError(site.name, f"{site.endpoint.address} is not ready", why=text, hint=read.hint)
    hint = _REFUSALS.get(word, "see the server's log")
    return SiteError(site.name, f"{site.endpoint.address} refuses the account", why=text, hint=hint, heals=False)


@contextlib.contextmanager
def _as_site_error(site: Site) -> Iterator[None]:
    try:
        yield
    except (OSError, trio.BrokenResourceError, trio.ClosedResourceError) as e:
        raise SiteError(site.name, f"the connection to {site.endpoint.address} failed", why=_cause(e)) from None
    except trio.TooSlowError:
        raise SiteError(site.name, f"no answer from {site.endpoint.address} in time") from None


def _cause(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, BaseExceptionGroup):
        return "; ".join(str(e) for e in error.exceptions)
    return str(error) or type(error).__name__

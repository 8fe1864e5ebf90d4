"""One connection to one server, TLS or plain: bytes out, bytes or replies in.

The network's errors become SiteError here. Password and certificates are read anew for each connection.
"""

import contextlib
import ssl
from collections.abc import AsyncIterator, Iterator
from typing import Self

import hiredis
import trio

from bisync.config import Site
from bisync.core.reply import read_refusal
from bisync.core.resp import pack
from bisync.endpoint import Login
from bisync.errors import SiteError, said
from bisync.runtime.arrivals import RECEIVE_BYTES, Arrivals, Received
from bisync.runtime.control import clean
from bisync.runtime.passes import Passes
from bisync.runtime.tls_errors import open_context, server_name, speaks_tls, tls_error, wants_tls
from bisync.runtime.tls_stream import TlsStream

SILENCE_S = 60.0  # a server that says nothing for so long is taken for gone; `repl-timeout` has the same default
SEND_BYTES = 1 << 20  # for each of which the other side has SILENCE_S

_REFUSALS = {
    "WRONGPASS": "check user and password in the job file, or in what it names",
    "NOAUTH": "give the password in the job file's url, or name it in password_file or password_env",
    "NOPERM": "let the account run the command (ACL SETUSER)",
    "ERR": "check user and password in the job file, or in what it names",
}


class _SaysNothing(SiteError):
    """It hung up, or what it said is no Redis: it may want another protocol."""


class Connection:
    """An authenticated connection. Every method raises SiteError when the network or the server fails."""

    def __init__(self, site: Site, stream: trio.SocketStream | TlsStream) -> None:
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
        endpoint, login = site.endpoint, site.login()
        context = open_context(site) if endpoint.tls is not None else None
        with _as_site_error(site):
            with trio.fail_after(timeout_s):
                stream = await trio.open_tcp_stream(endpoint.host, endpoint.port)
        async with stream:
            connection = cls(site, stream if context is None else TlsStream(stream, context, server_name(site)))
            try:
                await connection._secure(timeout_s)
                await connection._greet(login, timeout_s)
                yield connection
            finally:
                connection._close()

    def _close(self) -> None:
        if self._arrivals is not None:
            self._arrivals.close()
        if isinstance(self._stream, TlsStream):
            self._stream.close()

    async def _secure(self, timeout_s: float) -> None:
        if not isinstance(self._stream, TlsStream):
            return
        try:
            with trio.fail_after(timeout_s):
                await self._stream.handshake()
        except (OSError, trio.BrokenResourceError, trio.TooSlowError) as e:
            cause = TimeoutError("no answer") if isinstance(e, trio.TooSlowError) else e.__cause__ or e
            failed = await trio.to_thread.run_sync(tls_error, self.site, cause, abandon_on_cancel=True)
            raise failed from None

    async def _greet(self, login: Login, timeout_s: float) -> None:
        try:
            if login.password is not None:
                words = [w.encode() for w in (login.user, login.password.reveal()) if w is not None]
                reply = await self.request(b"AUTH", *words, timeout_s=timeout_s)
            else:
                reply = await self.request(b"PING", timeout_s=timeout_s)
        except _SaysNothing:
            if self.site.endpoint.tls is None:
                if await trio.to_thread.run_sync(speaks_tls, self.site, abandon_on_cancel=True):
                    raise wants_tls(self.site) from None
            raise
        if isinstance(reply, Exception):
            raise refusal(self.site, reply)
        self.site.endpoint.meet()

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
                if isinstance(self._stream, TlsStream):
                    data = await self._stream.receive_some()
                else:
                    data = await self._stream.receive_some(RECEIVE_BYTES)
        self._received += len(data)
        return self._checked(bytes(data))

    def _checked(self, data: bytes) -> bytes:
        if not data:
            hint = "bisync connects again by itself"
            raise _SaysNothing(self.site.name, "the server closed the connection", hint=hint)
        return data

    async def receive_dated(self, passes: Passes) -> Received:
        """Some bytes, at least one, and between which times they came."""
        with _as_site_error(self.site):
            with trio.fail_after(SILENCE_S):
                if isinstance(self._stream, TlsStream):
                    received = await self._stream.receive_dated(passes)
                else:
                    if self._arrivals is None:
                        self._arrivals = Arrivals(self._stream, self._received, passes)
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
                raise _SaysNothing(
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
    # A password that is kept elsewhere is read again at the next try: it may just be about to be changed there too.
    heals = site.endpoint.kept is not None and site.endpoint.met and word in ("WRONGPASS", "NOAUTH")
    return SiteError(site.name, f"{site.endpoint.address} refuses the account", why=text, hint=hint, heals=heals)


@contextlib.contextmanager
def _as_site_error(site: Site) -> Iterator[None]:
    try:
        yield
    except ssl.SSLError as e:
        raise tls_error(site, e, asks=False) from None
    except (OSError, trio.BrokenResourceError, trio.ClosedResourceError) as e:
        raise _SaysNothing(site.name, f"the connection to {site.endpoint.address} failed", why=_cause(e)) from None
    except trio.TooSlowError:
        raise SiteError(site.name, f"no answer from {site.endpoint.address} in time") from None


def _cause(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, BaseExceptionGroup):
        return "; ".join(map(said, error.exceptions))
    return said(error)

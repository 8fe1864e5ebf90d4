"""TLS over a socket of trio's, which knows which bytes of the network each decrypted byte came in.

That is what dating needs: a byte that is decrypted was written before the last byte of its record came, and after the
socket was empty before the first one came. So records are cut from the bytes here and handed to OpenSSL whole, and what
then comes out is known to be theirs. (Left to itself OpenSSL keeps a part of a record and does not say so.)

No close_notify is sent or waited for: Redis does not, and its protocol says itself where a message ends.
"""

import ssl

import attrs
import trio

from bisync.runtime.arrivals import RECEIVE_BYTES, Arrivals, Received
from bisync.runtime.passes import Passes

_HEADER_BYTES = 5  # of a record: type, version (two bytes), length of the rest (two bytes); RFC 8446, section 5.1
_TYPES = range(20, 25)
_PLAIN_BYTES = 1 << 14  # of a record, at most
LAST_WORDS_S = 0.5  # for reading why the server hung up


class Records:
    """Cuts what came into whole records. Holds back the part of a record that is not whole, less than 64 KiB."""

    def __init__(self) -> None:
        self._held = b""
        self._held_empty_us = 0  # when the socket was last known empty before the part that is held came

    def cut(self, data: bytes, empty_us: int) -> tuple[bytes, int]:
        """The records that are whole now, and since when they may have come; `data` came after `empty_us`.

        What is no TLS is passed on as it is: OpenSSL says so better.
        """
        since_us = self._held_empty_us if self._held else empty_us
        data, at = self._held + data, 0
        while at < len(data) and self._may_begin(data[at : at + 2]):
            size = _HEADER_BYTES + int.from_bytes(data[at + 3 : at + _HEADER_BYTES], "big")
            if len(data) - at < max(size, _HEADER_BYTES):
                break
            at += size
        else:
            at = len(data)
        self._held = data[at:]
        self._held_empty_us = empty_us if at else since_us
        return data[:at], since_us

    @staticmethod
    def _may_begin(data: bytes) -> bool:
        return data[0] in _TYPES and data[1:2] in (b"", b"\x03")


class TlsStream:
    """A TLS client's side of a connected socket. Raises ssl.SSLError, and what the socket raises."""

    def __init__(self, stream: trio.SocketStream, context: ssl.SSLContext, server_name: str) -> None:
        self._stream = stream
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=server_name)
        self._records = Records()
        self._sending = trio.Lock()  # a record must not come between the pieces of another
        self._received = 0  # bytes of the network
        self._arrivals: Arrivals | None = None  # reads the socket from when it matters when bytes came
        self._waiting: list[Received] = []  # pieces that brought no data yet

    async def handshake(self) -> None:
        """Agree on keys, and verify the server's certificate."""
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._flush()
            except ssl.SSLError:
                await self._flush_quietly()  # tells the server why
                raise
            else:
                await self._flush()
                return
            if not await self._take():
                raise ConnectionResetError("the server closed the connection during the handshake")

    async def send_all(self, data: bytes) -> None:
        """Send bytes. Where the server has hung up, what is raised says why, if it has said."""
        try:
            async with self._sending:
                self._tls.write(data)
                await self._stream.send_all(self._outgoing.read())
        except (OSError, trio.BrokenResourceError):
            await self._hear_last_words()
            raise

    async def receive_some(self) -> bytes:
        """Some bytes; none where the other side has closed."""
        while not (data := self._decrypted()):
            if not await self._take():
                return b""
            await self._answer()
        return data

    async def receive_dated(self, passes: Passes) -> Received:
        """Some bytes and when they came, as `Arrivals.read`."""
        if self._arrivals is None:
            if data := self._decrypted():  # came at any time before
                now_us = passes.clock.now_us()
                return Received(data, 0, now_us, now_us, wire_bytes=0)
            self._arrivals = Arrivals(self._stream, self._received, passes)
        while True:
            raw = await self._arrivals.read()
            self._waiting.append(raw)
            records, since_us = self._records.cut(raw.data, raw.empty_us)
            self._incoming.write(records)
            data = self._decrypted() if raw.data else b""
            await self._answer()
            if data or not raw.data:
                return self._dated(data, since_us, raw)
            if len(self._waiting) > 2:  # nobody sends so small pieces on purpose; what counts is the sum
                self._waiting = [self._sum()]

    def close(self) -> None:
        """Let go of what reads the socket, which stays another's to close."""
        if self._arrivals is not None:
            self._arrivals.close()

    def _dated(self, data: bytes, since_us: int, last: Received) -> Received:
        whole, self._waiting = self._sum(), []
        return attrs.evolve(last, data=data, empty_us=since_us, segments=whole.segments, wire_bytes=whole.wire_bytes)

    def _sum(self) -> Received:
        """The pieces as one, without its bytes."""
        counts = [piece.segments for piece in self._waiting]
        segments = None if None in counts else sum(n for n in counts if n is not None)
        wire_bytes = sum(piece.size for piece in self._waiting)
        return attrs.evolve(self._waiting[-1], data=b"", segments=segments, wire_bytes=wire_bytes)

    def _decrypted(self) -> bytes:
        """All that the records so far hold."""
        pieces = []
        try:
            while piece := self._tls.read(_PLAIN_BYTES):
                pieces.append(piece)
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            pass  # the server has said that it closes; the socket's end follows
        return b"".join(pieces)

    async def _take(self) -> bool:
        """Hand some bytes of the network to OpenSSL; False where the other side has closed."""
        data = bytes(await self._stream.receive_some(RECEIVE_BYTES))
        self._received += len(data)
        self._incoming.write(self._records.cut(data, 0)[0])
        return bool(data)

    async def _answer(self) -> None:
        """Send what OpenSSL wants to say of itself: new keys."""
        if self._outgoing.pending:
            await self._flush()

    async def _flush(self) -> None:
        async with self._sending:
            if data := self._outgoing.read():
                await self._stream.send_all(data)

    async def _flush_quietly(self) -> None:
        try:
            with trio.move_on_after(LAST_WORDS_S):
                await self._flush()
        except (OSError, trio.BrokenResourceError):
            pass

    async def _hear_last_words(self) -> None:
        """Raises ssl.SSLError where the server has sent an alert before it hung up."""
        try:
            with trio.move_on_after(LAST_WORDS_S):
                while await self._take():
                    self._decrypted()
        except (OSError, trio.BrokenResourceError, trio.BusyResourceError, trio.ClosedResourceError) as e:
            if isinstance(e, ssl.SSLError):
                raise

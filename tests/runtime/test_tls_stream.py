"""TLS over a socket: whole records, and when the bytes that are decrypted came."""

import contextlib
import itertools
import socket
import ssl
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from bisync.runtime.arrivals import Received
from bisync.runtime.passes import Passes
from bisync.runtime.tls_stream import Records, TlsStream
from bisync.runtime.wallclock import WallClock
from tests.certificates import Authority, Certificate

CLOCK = WallClock()
PIECES = st.lists(st.tuples(st.sampled_from([20, 21, 22, 23, 24]), st.binary(max_size=40)), max_size=8)


@given(PIECES, st.lists(st.integers(1, 50), max_size=20))
def test_records_are_whole_however_they_came(pieces: list[tuple[int, bytes]], sizes: list[int]) -> None:
    records = [bytes([kind, 3, 3]) + len(rest).to_bytes(2, "big") + rest for kind, rest in pieces]
    wire, cutter = b"".join(records), Records()
    ends = set(itertools.accumulate(len(r) for r in records)) | {0}
    at = done = 0
    came: list[int] = []  # by byte: the number of the piece in which it came
    for n, size in enumerate([*sizes, len(wire)]):
        data, at = wire[at : at + size], at + size
        came += [n] * len(data)
        whole, since = cutter.cut(data, n)
        assert wire[done : done + len(whole)] == whole and done + len(whole) in ends
        assert max(e for e in ends if e <= len(came)) == done + len(whole), "all that are whole"
        if whole:
            assert since == came[done], "since the first byte of the first of them"
        done += len(whole)
    assert done == len(wire)


@pytest.mark.parametrize(
    "data", [b"-ERR wrong\r\n", b"HTTP/1.1 400", b"\x16\x99", b"\x00", b"\x17\x03\x03\x00\x01x-ERR"]
)
def test_what_is_no_tls_is_passed_on_at_once(data: bytes) -> None:
    assert Records().cut(data, 0)[0] == data


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Authority, Certificate]:
    authority = Authority(tmp_path_factory.mktemp("certificates"))
    return authority, authority.issue("server")


class Peer:
    """The server's side, by hand: what is encrypted and what of it is sent are two things."""

    def __init__(self, sock: socket.socket, certificate: Certificate, version: ssl.TLSVersion) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.maximum_version = version
        context.load_cert_chain(certificate.cert, certificate.key)
        self.socket, self._incoming, self._outgoing = sock, ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def handshake(self) -> None:
        self._until(self._tls.do_handshake)
        self.socket.sendall(self._outgoing.read())

    def _until(self, does: Callable[[], object]) -> object:
        while True:
            try:
                return does()
            except ssl.SSLWantReadError:
                self.socket.sendall(self._outgoing.read())
                self._incoming.write(self.socket.recv(1 << 16))

    def read(self) -> bytes:
        data = self._until(lambda: self._tls.read(1 << 16))
        assert isinstance(data, bytes)
        return data

    def encrypted(self, data: bytes) -> bytes:
        self._tls.write(data)
        return self._outgoing.read()


@contextlib.asynccontextmanager
async def secured(
    made: tuple[Authority, Certificate], passes: Passes, version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3
) -> AsyncIterator[tuple[TlsStream, Peer]]:
    authority, certificate = made
    context = ssl.create_default_context(cafile=str(authority.cert))
    with passes.watching(), socket.create_server(("127.0.0.1", 0)) as server:
        async with await trio.open_tcp_stream(*server.getsockname()) as plain:
            other, _ = server.accept()
            with other:
                peer, stream = Peer(other, certificate, version), TlsStream(plain, context, "127.0.0.1")
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(stream.handshake)
                    await trio.to_thread.run_sync(peer.handshake)
                with contextlib.closing(stream):
                    yield stream, peer


@pytest.fixture(params=[ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["1.2", "1.3"])
def version(request: pytest.FixtureRequest) -> Iterator[ssl.TLSVersion]:
    yield request.param


@pytest.mark.slow
async def test_bytes_go_both_ways(made: tuple[Authority, Certificate], version: ssl.TLSVersion) -> None:
    big = bytes(range(256)) * 5_000
    async with secured(made, Passes(CLOCK), version) as (stream, peer):
        await stream.send_all(b"hello")
        assert await trio.to_thread.run_sync(peer.read) == b"hello"
        thread = threading.Thread(target=lambda: peer.socket.sendall(peer.encrypted(big)))
        thread.start()
        got = b""
        while len(got) < len(big):
            got += await stream.receive_some()
        thread.join()
        assert got == big
        peer.socket.close()
        assert await stream.receive_some() == b""


@pytest.mark.slow
async def test_every_byte_came_between_the_two_times(
    made: tuple[Authority, Certificate], version: ssl.TLSVersion
) -> None:
    """Records in pieces, several at once, and pieces that end within a record: the first byte of a record counts."""
    began: list[int] = []  # by byte of the data: the latest time at which its record's first byte may have been sent
    ended: list[int] = []  # by byte: the earliest time at which its record's last byte may have come

    def send(peer: Peer) -> None:
        wire, marks = b"", []
        for n in range(120):
            data = b"%3d" % n * (1 + n % 7)
            record = peer.encrypted(data)
            marks.append((len(wire), len(wire) + len(record), len(data)))
            wire += record
        at, times = 0, []
        for n in itertools.count():
            if at >= len(wire):
                break
            size = (1, 300, 7, 40, 2000, 22)[n % 6]
            before_us = CLOCK.now_us()
            peer.socket.sendall(wire[at : at + size])
            times.append((at, at + size, before_us, CLOCK.now_us()))
            at += size
            time.sleep(0.004)
        for first, end, size in marks:
            began.extend([next(t[3] for t in times if t[0] <= first < t[1])] * size)
            ended.extend([next(t[2] for t in times if t[0] <= end - 1 < t[1])] * size)

    passes, got = Passes(CLOCK), list[Received]()
    async with secured(made, passes, version) as (stream, peer):
        thread = threading.Thread(target=send, args=(peer,))
        thread.start()
        while sum(len(r.data) for r in got) < 3 * sum(1 + n % 7 for n in range(120)):
            got.append(await stream.receive_dated(passes))
        thread.join()
    assert b"".join(r.data for r in got) == b"".join(b"%3d" % n * (1 + n % 7) for n in range(120))
    at = 0
    for received in got:
        for n in range(at, at + len(received.data)):
            assert received.empty_us <= began[n], "the socket was not empty after the record's first byte"
            assert ended[n] <= received.came_us <= received.read_us
        at += len(received.data)
    narrow = [r for r in got if 0 < r.empty_us and r.came_us - r.empty_us < 1_000_000]
    assert len(narrow) > len(got) // 2, "what is known is known"


@pytest.mark.slow
async def test_what_was_read_before_may_have_come_at_any_time(made: tuple[Authority, Certificate]) -> None:
    passes = Passes(CLOCK)
    async with secured(made, passes) as (stream, peer):
        first, second = peer.encrypted(b"first"), peer.encrypted(b"second")
        peer.socket.sendall(first + second[:9])
        assert await stream.receive_some() == b"first"  # and a part of the second
        peer.socket.sendall(second[9:])
        received = await stream.receive_dated(passes)
        assert (received.data, received.empty_us) == (b"second", 0)
        before_us = CLOCK.now_us()
        peer.socket.sendall(peer.encrypted(b"third"))
        received = await stream.receive_dated(passes)
        assert received.data == b"third" and received.came_us >= before_us and received.empty_us > 0


@pytest.mark.slow
async def test_pieces_without_data_count_with_the_next(made: tuple[Authority, Certificate]) -> None:
    passes = Passes(CLOCK)
    async with secured(made, passes) as (stream, peer):
        peer.socket.sendall(peer.encrypted(b"begins"))
        await stream.receive_dated(passes)
        record = peer.encrypted(b"x" * 100)
        async with trio.open_nursery() as nursery:

            async def send() -> None:
                for at in range(0, len(record), 10):
                    peer.socket.sendall(record[at : at + 10])
                    await trio.sleep(0.01)

            nursery.start_soon(send)
            received = await stream.receive_dated(passes)
        assert received.data == b"x" * 100 and received.size == len(record)
        assert received.segments in (None, -(-len(record) // 10))


@pytest.mark.slow
async def test_why_the_server_hung_up_is_heard_though_it_is_told_late(made: tuple[Authority, Certificate]) -> None:
    """The alert is in the socket when a send fails."""
    async with secured(made, Passes(CLOCK)) as (stream, peer):
        await stream.send_all(b"x")  # never read: so the close is a reset
        peer.socket.sendall(b"\x15\x03\x03\x00\x02\x02\x28")
        peer.socket.close()
        with pytest.raises((ssl.SSLError, trio.BrokenResourceError)):
            for _ in range(100):
                await stream.send_all(b"x")
                await trio.sleep(0.001)

"""A simulated site and a real server behind one face, so that one test can ask both, or each in turn.

The simulated site is a Redis 7.0. What newer servers write in other words is put into those of 7.0 here, by the
version of the server: `in_words_of_7_0` for the stream, `comparable` for replies. Measured with 7.0.15, Redict 7.3.6
(which began as Redis 7.2), 8.0.2 and 8.2.3.
"""

import pathlib
import re
import shlex
import socket
from collections.abc import Callable, Iterator
from typing import Any

import hiredis
from hiredis import pack_command

from bisync.testing.servers import LocalServer
from bisync.testing.site import SimulatedConnection, SimulatedSite

NOTHING = object()
TRIES = 20  # for what a busy machine may spoil
OPTIONS = (
    *("--repl-ping-replica-period", "3600", "--repl-timeout", "3600"),  # nothing in the stream but what a test wrote
    *("--enable-debug-command", "local"),
)
READS: dict[str, tuple[str, Callable[[Any], object]]] = {
    "string": ("GET", bytes),
    "list": ("LRANGE", tuple),
    "set": ("SMEMBERS", frozenset),
    "hash": ("HGETALL", lambda words: dict(zip(words[::2], words[1::2], strict=True))),
    "zset": ("ZRANGE", lambda words: {m: float(s) for m, s in zip(words[::2], words[1::2], strict=True)}),
}
"""By type: how to read a whole value, and how to make it comparable."""
SHORT_SCORES = SET_KEEPS_WORDS = MULTI_BEFORE_SELECT = SPOP_IN_ONE = READS_QUEUE = (7, 2)
"""The versions from which on a score has the fewest digits that name it; SET with a moment keeps NX, XX and GET in the
stream; a transaction's first SELECT comes after MULTI; SPOP of several members is one SREM; and a server without
memory lets reads into a transaction."""
FIELDS_KEEP_EXPIRIES = RESTORE_LOOKS_FIRST = (8, 2)
"""From here on HINCRBYFLOAT is sent as HSETEX KEEPTTL, and RESTORE with REPLACE deletes an expired key before it looks
at the payload."""
_NUMBER = re.compile(rb"\$[0-9]+\r\n(?=[^\r]*[.e])(-?[0-9]+(?:\.[0-9]+)?(?:e[+-]?[0-9]+)?)\r\n")
RANGES = {"LRANGE": ("0", "-1"), "ZRANGE": ("0", "-1", "WITHSCORES")}


def parse(data: bytes) -> list[object]:
    """The commands or the replies in these bytes."""
    reader = hiredis.Reader(notEnoughData=NOTHING)
    reader.feed(data)
    items: list[object] = []
    while (item := reader.gets()) is not NOTHING:
        items.append(item)
    return items


def pack_line(line: str) -> bytes:
    """A command from its words; '' is an empty one."""
    return pack_command(tuple(shlex.split(line)))


def in_words_of_7_0(stream: bytes, version: tuple[int, ...]) -> bytes:
    """What a server of this version sent, as 7.0 would have sent it."""
    if version < min(SET_KEEPS_WORDS, FIELDS_KEEP_EXPIRIES):
        return stream
    commands = [_in_words_of_7_0(words) for words in parse(stream)]  # type: ignore[arg-type]
    for n in range(len(commands) - 1):
        if commands[n] == (b"MULTI",) and commands[n + 1][0] == b"SELECT":
            commands[n : n + 2] = commands[n + 1], commands[n]
    return b"".join(map(pack_command, commands))


def _in_words_of_7_0(words: list[bytes]) -> tuple[bytes, ...]:
    if words[0].upper() == b"SET" and b"PXAT" in words[3:]:
        at = words.index(b"PXAT", 3)
        return (*words[:3], *words[at : at + 2])
    if words[0] == b"HSETEX" and words[2:5] == [b"KEEPTTL", b"FIELDS", b"1"]:
        return (b"HSET", words[1], *words[5:])
    return tuple(words)


def comparable(reply: bytes, version: tuple[int, ...]) -> bytes:
    """A reply in which equal numbers have equal digits, where the server's scores have others than those of 7.0."""
    if version < SHORT_SCORES:
        return reply

    def digits(found: re.Match[bytes]) -> bytes:
        text = b"%.17g" % float(found[1])
        return b"$%d\r\n%s\r\n" % (len(text), text)

    return _NUMBER.sub(digits, reply)


class RealConnection:
    """A client connection to a real server."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), 30)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def execute(self, data: bytes) -> bytes:
        """Send whole commands and read a reply to each."""
        self._socket.sendall(data)
        return self.receive(len(parse(data)))

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def receive(self, replies: int) -> bytes:
        reader, received = hiredis.Reader(notEnoughData=NOTHING), b""
        while replies:
            data = self._socket.recv(1 << 16)
            assert data, f"the server closed the connection after {received!r}"
            received += data
            reader.feed(data)
            while replies and reader.gets() is not NOTHING:
                replies -= 1
        return received

    def is_closed(self) -> bool:
        return self._socket.recv(1) == b""

    def close(self) -> None:
        self._socket.close()


class Replica:
    """Attaches as a replica and reads the replication stream, raw."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), 30)
        self._file = self._socket.makefile("rb")
        self._socket.sendall(pack_command(("PSYNC", "?", "-1")))
        self.offset = int(self._line().split()[2])
        self._file.read(int(self._line()[1:]))

    def _line(self) -> bytes:
        while not (line := self._file.readline().strip()):
            pass
        return line

    def read_to(self, offset: int) -> bytes:
        data = self._file.read(offset - self.offset)
        self.offset = offset
        return data

    def close(self) -> None:
        self._file.close()
        self._socket.close()


class Simulated:
    """The simulated site as the tests see it."""

    version = (7, 0)

    def __init__(self, now_ms: int = 1_700_000_000_000) -> None:
        self.site = SimulatedSite(now_ms=now_ms)
        self._read = 0

    def connect(self) -> SimulatedConnection:
        return self.site.connect()

    def new_stream(self) -> bytes:
        """What came into the stream since the last call."""
        data, self._read = bytes(self.site.stream[self._read :]), len(self.site.stream)
        return data

    def now_ms(self) -> int:
        return self.site.now_ms

    def pass_ms(self, ms: int) -> None:
        self.site.now_ms += ms

    def expire_keys(self) -> None:
        self.site.expire_keys()

    def refuse_writes(self, refuse: bool) -> None:
        oom = b"-OOM command not allowed when used memory > 'maxmemory'."
        self.site.refuse = oom if refuse else None

    def full_sync(self) -> None:
        """Take a snapshot, as for a new replica."""
        self.site.snapshot()


class Real:
    """A real server as the tests see it."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.server = LocalServer(folder, *OPTIONS).start()
        self._control = RealConnection(self.server.port)
        self._connections: list[RealConnection] = []
        info = self.ask("INFO server")
        assert isinstance(info, bytes)
        found = re.search(rb"redis_version:([0-9.]+)", info)
        assert found
        self.version = tuple(map(int, found[1].split(b".")))
        self._control.execute(pack_line("DEBUG SET-ACTIVE-EXPIRE 0"))
        self._replica = Replica(self.server.port)

    def close(self) -> None:
        self.drop_connections()
        self._control.close()
        self._replica.close()
        self.server.stop()

    def connect(self) -> RealConnection:
        self._connections.append(RealConnection(self.server.port))
        return self._connections[-1]

    def drop_connections(self) -> None:
        while self._connections:
            self._connections.pop().close()

    def ask(self, line: str) -> object:
        """The reply to a command on a connection that no test uses."""
        return parse(self._control.execute(pack_line(line)))[0]

    def new_stream(self) -> bytes:
        """What came into the stream since the last call, in the words of 7.0."""
        info = self.ask("INFO replication")
        assert isinstance(info, bytes)
        fields = dict(line.split(b":", 1) for line in info.splitlines() if b":" in line)
        return in_words_of_7_0(self._replica.read_to(int(fields[b"master_repl_offset"])), self.version)

    def now_ms(self) -> int:
        seconds, micros = self.ask("TIME")
        return int(seconds) * 1000 + int(micros) // 1000

    def pass_ms(self, ms: int) -> None:
        until = self.now_ms() + ms
        while self.now_ms() <= until:
            pass

    def expire_keys(self) -> None:
        before = self._expired()
        self.ask("DEBUG SET-ACTIVE-EXPIRE 1")
        while self._expired() < before + 2:  # the tests let two keys expire
            pass
        self.ask("DEBUG SET-ACTIVE-EXPIRE 0")

    def _expired(self) -> int:
        info = self.ask("INFO stats")
        assert isinstance(info, bytes)
        return int(next(line for line in info.splitlines() if line.startswith(b"expired_keys:")).split(b":")[1])

    def refuse_writes(self, refuse: bool) -> None:
        self.ask(f"CONFIG SET maxmemory {int(refuse)}")

    def full_sync(self) -> None:
        Replica(self.server.port).close()

    def dataset(self) -> dict[tuple[int, bytes], tuple[str, object, int | None]]:
        """In the form of SimulatedSite.dataset, of the databases 0 and 1."""
        return dict(self._keys(0)) | dict(self._keys(1))

    def _keys(self, database: int) -> Iterator[tuple[tuple[int, bytes], tuple[str, object, int | None]]]:
        keys = self._ask_all(("SELECT", database), ("KEYS", "*"))[1]
        for key in keys:
            kind, expires_at_ms = self._ask_all(("TYPE", key), ("PEXPIRETIME", key))
            assert isinstance(kind, bytes) and isinstance(expires_at_ms, int)
            read, canonical = READS[kind.decode()]
            (value,) = self._ask_all((read, key, *RANGES.get(read, ())))
            yield (database, key), (kind.decode(), canonical(value), expires_at_ms if expires_at_ms >= 0 else None)

    def _ask_all(self, *commands: tuple[object, ...]) -> list[object]:
        return parse(self._control.execute(b"".join(map(pack_command, commands))))


def write_expired(site: Simulated | Real, write: str) -> None:
    """Write the key k and let it reach its expiry: it is still there, and nothing of it is left in `new_stream`.

    PEXPIRE looks at the clock twice (Redis 7.0), so a server that is interrupted in between for longer than the key has
    to live deletes it at once. Then all is done again.
    """
    connection = site.connect()
    for _ in range(TRIES):
        connection.execute(pack_line(write) + pack_line("PEXPIRE k 1"))
        site.pass_ms(2)
        if [b"DEL", b"k"] not in parse(site.new_stream()):
            return
    raise AssertionError(f"{TRIES} times PEXPIRE has deleted k at once")

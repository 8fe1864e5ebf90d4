"""The echoes that are on their way: of each transaction that was sent, the bytes that the target's stream will show.

A server hands a transaction on to its replicas as it came, nearly always word for word. So an echo need not be read
command by command: it is compared with what was sent. A command that had no effect is not handed on, so it is left out
of the comparison too (often a deletion of a key that has expired at both sites). Where anything else is different,
because a command was handed on in other words, or because the server deleted a key within the transaction, the echo is
read like every other entry. What is kept for this is never needed, and may be given up at any time.

The one thing that is the server's choice is the SELECT of the database of the first command: from Redis 7.2 on, and in
all of Valkey, it stands within the MULTI, before that in front of it. All others stand where bisync has sent them.
Source: `propagatePendingCommands` of server.c, `execCommand` of multi.c, `replicationFeedSlaves` of replication.c.
"""

import bisect
import collections
import itertools
from collections.abc import Sequence

import attrs

from bisync.core.resp import MULTI, select
from bisync.core.tag import Tag

ECHO_BYTES = 1_000
"""What an awaited echo takes in memory beside the bytes that were sent, about: mostly its tag."""

_SIZE_BYTES = 8  # of the size of one command

_SELECT = select(0)
_SELECTING = _SELECT[: _SELECT.index(b"SELECT") + 6]

SKIPPED_MAX = 64
"""So many commands in a row are looked over for the one that comes next: those before it had no effect."""


@attrs.define(slots=True, eq=False)
class AwaitedEcho:
    """A transaction as it was sent: `MULTI; SET tag; commands...; EXEC` and what guards the next one."""

    payload: bytes
    size: int  # of the payload, up to the end of its EXEC
    marker: bytes  # the SET of the tag, packed
    tag: Tag
    database: int  # selected at its end
    sizes: Sequence[int]  # of each command after the tag, in bytes, EXEC included
    bare: bool  # is there no command in it but the SET of the tag?
    whole: bool  # is every copied key in it that should be? Not where the target has refused one

    @property
    def memory(self) -> int:
        """About how many bytes of memory it takes."""
        return len(self.payload) + ECHO_BYTES + _SIZE_BYTES * len(self.sizes)

    @property
    def body(self) -> int:
        """Where in the payload the commands begin that follow the tag."""
        return len(MULTI) + len(self.marker)

    @property
    def heads(self) -> tuple[bytes, bytes]:
        """What its echo begins with: where database 0 was selected before, and where it is selected now."""
        return MULTI + self.marker, MULTI + _SELECT + self.marker

    def names(self, *keys: bytes) -> bool:
        """May one of these keys be named in it?"""
        return any(key in self.payload for key in keys)


class AwaitedEchoes:
    """Those of one site's transactions that were not read back yet, oldest first, within a bound."""

    def __init__(self) -> None:
        self._echoes: collections.deque[AwaitedEcho] = collections.deque()
        self._markers: collections.Counter[bytes] = collections.Counter()  # of them
        self.bytes = 0  # of memory, about

    def __repr__(self) -> str:
        return f"<AwaitedEchoes {len(self._echoes)}, {self.bytes} bytes>"

    def __len__(self) -> int:
        return len(self._echoes)

    @property
    def first(self) -> AwaitedEcho | None:
        """The one that must come next."""
        return self._echoes[0] if self._echoes else None

    def add(self, echo: AwaitedEcho, bound: int) -> None:
        """A transaction was sent. It is not kept where more than `bound` bytes would be."""
        if self.bytes + echo.memory <= bound:
            self._echoes.append(echo)
            self._markers[echo.marker] += 1
            self.bytes += echo.memory

    def take_back(self, tag: Tag) -> None:
        """The newest transaction, with this tag, was refused as a whole: no echo comes."""
        if self._echoes and self._echoes[-1].tag is tag:
            self._forget(self._echoes.pop())

    def seen(self, marker: bytes) -> None:
        """A transaction that begins with this SET of a tag was read: its echo is awaited no more, nor any before it."""
        if marker in self._markers:  # while a life catches up, most are not: they are of earlier ones
            gone = None
            while gone != marker:
                echo = self._echoes.popleft()
                self._forget(echo)
                gone = echo.marker

    def _forget(self, echo: AwaitedEcho) -> None:
        self.bytes -= echo.memory
        self._markers[echo.marker] -= 1
        if not self._markers[echo.marker]:
            del self._markers[echo.marker]

    def find(self, data: bytes, at: int) -> tuple[int, int]:
        """Where in `data`, from `at` on, the next echo may begin, and up to where its beginning was recognised.

        Both are the end of the data where it does not begin there. Its beginning may reach beyond the data. Where the
        tag stands alone, which makes no echo of this kind, both are the end of its SET.
        """
        if not self._echoes:
            return len(data), len(data)
        first = self._echoes[0]
        found = data.find(first.marker, at)
        if found >= 0:
            end = found + len(first.marker)
            for head in first.heads:
                if end - len(head) >= at and data.startswith(head, end - len(head)):
                    return end - len(head), end
            return end, end
        plain, selecting = first.heads
        begin = data.find(b"*", max(at, len(data) - len(selecting) + 1))
        while begin >= 0:
            tail = data[begin:]
            if plain.startswith(tail) or selecting.startswith(tail):
                return begin, len(data)
            begin = data.find(b"*", begin + 1)
        return len(data), len(data)


@attrs.define(slots=True, eq=False)
class Comparison:
    """An echo that is being read, all of it as awaited so far. It may come in pieces of any size.

    Commands that had no effect are not in it. They are found out one by one and skipped.
    """

    echo: AwaitedEcho
    database: int  # selected before it
    failed: bool = False  # is it not as awaited?
    _begun: bytes = b""  # its head as far as it was read, until it was read to its end
    _head: bytes = b""  # its head, once it is known which one it is
    _place: int = 0  # in the payload, up to where it was read
    _starts: list[int] = attrs.field(factory=list)  # in the payload, of each command after the tag; made when needed
    _skipped: list[tuple[int, int]] = attrs.field(factory=list)  # in the payload, from where to where: commands

    def go_on(self, data: bytes, at: int) -> int:
        """Compare `data` from `at` on: the end of what belongs to the echo, or of what did before it `failed`."""
        if not self._head:
            at = self._read_head(data, at)
            if not self._head:
                return at
        expected = memoryview(self.echo.payload)
        while True:
            end = min(len(data), at + self.echo.size - self._place)
            if data.startswith(expected[self._place : self._place + end - at], at):
                self._place += end - at
                return end
            at = self._skip(data, at)
            if self.failed:
                return at

    def _read_head(self, data: bytes, at: int) -> int:
        plain, selecting = self.echo.heads
        some = self._begun + data[at : at + len(selecting) - len(self._begun)]
        for head in (plain, selecting) if self.database == 0 else (selecting,):
            if some.startswith(head):
                self._head, self._place = head, len(plain)
                return at + len(head) - len(self._begun)
            if head.startswith(some):
                self._begun = some
                return len(data)
        self.failed = True
        return at

    def _skip(self, data: bytes, at: int) -> int:
        """Something in `data` is different: read up to that command, and leave it out if it is not there at all."""
        if not self._starts:
            self._starts = list(itertools.accumulate(self.echo.sizes, initial=self.echo.body))
        n, at = self._differing(data, at)
        start, payload = self._starts[n], self.echo.payload
        begun = payload[start : self._place]
        skippable = min(n + SKIPPED_MAX, len(self.echo.sizes) - 1)  # the last one is EXEC
        for other in range(n, skippable):
            if payload.startswith(_SELECTING, self._starts[other]):
                break
            begin, size = self._starts[other + 1], max(len(begun), self.echo.sizes[other + 1])
            expected = payload[begin : min(begin + size, self.echo.size)]
            if len(expected) >= len(begun) and expected.startswith(begun + data[at : at + size - len(begun)]):
                self._skipped.append((start, begin))
                self._place = begin + len(begun)
                return at
        self.failed = True
        return at

    def _differing(self, data: bytes, at: int) -> tuple[int, int]:
        """Which command is the first that is not as awaited, and where in `data` it begins, or goes on."""
        n, step, last = bisect.bisect_right(self._starts, self._place) - 1, 1, len(self.echo.sizes) - 1
        expected = memoryview(self.echo.payload)
        while n < last:
            to = self._starts[min(n + step, last)]
            end = at + to - self._place
            if end <= len(data) and data.startswith(expected[self._place : to], at):
                n, step = min(n + step, last), step * 2
                self._place, at = to, end
            elif step == 1:
                break
            else:
                step = 1
        return n, at

    @property
    def recognised(self) -> bool:
        """Is it sure that this is the echo, whether it is as awaited or not? Its tag says so."""
        return bool(self._head)

    @property
    def done(self) -> bool:
        """Was all of it read?"""
        return self._place == self.echo.size

    @property
    def length(self) -> int:
        """How many bytes were read of it."""
        if not self._head:
            return len(self._begun)
        return len(self._head) + self._place - self.echo.body - sum(end - start for start, end in self._skipped)

    @property
    def read(self) -> bytes:
        """The bytes that were read of it."""
        return self._head + self._kept(self.echo.body, self._place) if self._head else self._begun

    @property
    def shown(self) -> AwaitedEcho:
        """What was read, once all of it was: the echo without the commands that had no effect."""
        if not self._skipped:
            return self.echo
        starts, sent, read = self._starts, self.echo.payload, self._kept(0, self.echo.size)
        spans = ((bisect.bisect_left(starts, start), bisect.bisect_left(starts, end)) for start, end in self._skipped)
        gone = {at for first, end in spans for at in starts[first:end]}
        bare = all(at in gone or sent.startswith(_SELECTING, at) for at in starts[:-2])
        whole = self.echo.whole and all(_deletes(sent, at) for at in gone)
        return attrs.evolve(self.echo, payload=read, size=len(read), bare=bare, whole=whole)

    def _kept(self, begin: int, end: int) -> bytes:
        """The payload between two places, without what was skipped."""
        kept = []
        for start, after in self._skipped:
            kept.append(self.echo.payload[begin:start])
            begin = after
        return b"".join((*kept, self.echo.payload[begin:end]))


def _deletes(payload: bytes, at: int) -> bool:
    """Is the command in a payload that begins there a deletion of keys, as bisync sends them?"""
    name = payload.find(b"\r\n", at) + 2
    return payload.startswith((b"$3\r\ndel\r\n", b"$6\r\nunlink\r\n"), name)

"""Echoes that are compared with what was sent give the same entries as echoes that are read command by command."""

import pathlib
import socket
from collections.abc import Iterator, Sequence

import attrs
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bisync.core.awaited import ECHO_BYTES, AwaitedEchoes
from bisync.core.echo import deleted_by_server
from bisync.core.link import Item, Link, Part, Transaction
from bisync.core.position import Position
from bisync.core.resp import EXEC, MULTI, pack, select
from bisync.core.rules import Rules
from bisync.core.stream import Entry, StreamReader
from bisync.core.tag import Tag, tag_key
from bisync.errors import StreamError
from bisync.testing.pair import SimulatedPair
from bisync.testing.servers import LocalServer
from tests.versions.harness import RELEASES, program

REPLID = "a" * 40
KEY = tag_key("job", "reverse")
PLENTY = 1 << 30


def transaction(number: int, items: Sequence[Sequence[Part]]) -> Transaction:
    """As a link sends it."""
    link = Link(KEY, batch_commands=1000, batch_bytes=1 << 20)
    made = [Item("write", parts, sum(len(packed) for _, packed in parts)) for parts in items]
    clock = (0, 1, number)
    tag = Tag("job", 3, "engine", clock, {"east": Position(REPLID, number, 2)})
    return link.send(made, clock, tag, lambda: [])


def shown(sent: Transaction, selected: int, within: bool) -> bytes:
    """Its echo, as a server shows it that had `selected` a database before. `within`: its SELECT is in the MULTI."""
    first = select(0) if selected != 0 else b""
    opening = MULTI + first if within else first + MULTI
    return opening + sent.payload[len(MULTI) : sent.size]


# -- random streams
words = st.lists(st.sampled_from([b"k", b"*1\r\n$5\r\nMULTI\r\n", b"", b"DEL", b"v" * 30]), min_size=1, max_size=3)
parts = st.lists(st.tuples(st.integers(0, 2), words.map(lambda args: pack(b"set", *args))), max_size=6)
client_writes = st.sampled_from(
    [
        pack(b"INCR", b"n"),
        MULTI + pack(b"INCR", b"a") + pack(b"INCR", b"b") + EXEC,
        MULTI + MULTI,
        pack(b"SET", b"k", MULTI),
        pack(b"SET", KEY, b"a client's"),
        pack(b"PING"),
        select(1),
        select(0),
    ]
)
DIFFERENCES = (
    *("none", "without effect", "without effect", "deleted", "dropped", "changed", "alone"),
    *("never", "refused", "not kept", "damaged"),
)


@attrs.define
class Script:
    """What happens: bytes that come into the stream, and before which of them a transaction is sent or refused."""

    steps: list[tuple[bytes, list[Transaction], list[Transaction]]] = attrs.field(factory=list)
    compared: int = 0  # echoes that are as they were sent
    exact: bool = True  # is it known how many there are?


def _database_after(data: bytes, before: int) -> int:
    at = data.rfind(b"\r\n$6\r\nSELECT\r\n$1\r\n")
    number = data[at + 18 : at + 19]
    return int(number) if at >= 0 and number.isdigit() else before  # it may be a damaged one


@st.composite
def scripts(draw: st.DrawFn) -> Script:
    """Transactions and their echoes, between client writes."""
    script, selected = Script(), draw(st.integers(0, 1))
    script.steps.append((select(selected), [], []))
    for number in range(draw(st.integers(1, 4))):
        for data in draw(st.lists(client_writes, max_size=2)):
            script.exact = script.exact and data != MULTI + MULTI
            script.steps.append((data, [], []))
            selected = _database_after(data, selected)
        sent = transaction(number, draw(st.lists(parts, max_size=3)))
        what = draw(st.sampled_from(DIFFERENCES))
        unchanged = shown(sent, selected, draw(st.booleans()))
        data = _changed(draw, unchanged, sent, what)
        script.compared += what == "without effect" or (what != "not kept" and data == unchanged)
        script.exact = script.exact and what not in ("damaged", "never", "dropped")
        refused = [sent] if what == "refused" else []
        script.steps.append((data, [] if what == "not kept" else [sent], refused))
        selected = _database_after(data, 0) if data else selected
    script.steps.append((pack(b"INCR", b"last"), [], []))
    return script


def _changed(draw: st.DrawFn, data: bytes, sent: Transaction, what: str) -> bytes:
    """An echo in which the server, or the wire, has changed something."""
    body = data.index(sent.marker) + len(sent.marker)
    if what == "deleted":
        return data[:body] + pack(b"DEL", b"k") + data[body:]
    if what in ("without effect", "dropped"):
        begun, kept = data[:body], []
        for size in sent.sizes:
            command, data = data[body : body + size], data[:body] + data[body + size :]
            stays = command == EXEC or (what == "without effect" and command.startswith(select(0)[:18]))
            if stays or draw(st.booleans()):
                kept.append(command)
        return begun + b"".join(kept)
    if what == "changed":
        return data.replace(b"set", b"SET")
    if what == "alone":
        return select(0) + sent.marker
    if what == "damaged":
        at = draw(st.integers(0, len(data) - 1))
        return data[:at] + bytes([data[at] ^ draw(st.integers(1, 255))]) + data[at + 1 :]
    return b"" if what in ("never", "refused") else data


def play(script: Script, cuts: Sequence[int], awaits: bool) -> tuple[list[object], StreamReader, AwaitedEchoes]:
    """The entries of a script whose bytes come in pieces of these sizes, in turn; and where the reader stood."""
    awaited, found, n = AwaitedEchoes(), [], 0
    subject = StreamReader(Position(REPLID, 100, 0), KEY, awaited if awaits else None)
    for data, sent, refused in script.steps:
        for one in sent:
            awaited.add(one.echo(), PLENTY)
        for one in refused:
            awaited.take_back(one.tag)
        at = 0
        while at < len(data):
            size = cuts[n % len(cuts)] if cuts else len(data)
            n += 1
            try:
                entries = subject.feed(data[at : at + size])
            except StreamError:
                return [*found, "error"], subject, awaited
            at += size
            found.append((entries, subject.position, subject.buffered))
    return found, subject, awaited


@given(scripts(), st.lists(st.one_of(st.integers(1, 20), st.integers(1, 600)), max_size=5))
@example(Script([(MULTI[:4], [transaction(1, [])], []), (MULTI[4:] + EXEC, [], [])]), [])
def test_comparing_gives_the_entries_that_reading_gives_wherever_the_stream_is_cut(
    script: Script, cuts: list[int]
) -> None:
    compared, subject, awaited = play(script, cuts, True)
    assert compared == play(script, cuts, False)[0]
    if script.exact:
        assert subject.compared == script.compared
    assert awaited.bytes == 0 or len(awaited)


@given(scripts(), st.lists(st.integers(1, 3000), min_size=1, max_size=5))
def test_whole_streams_cut_anywhere_give_the_same_entries(script: Script, cuts: list[int]) -> None:
    """All is sent before the first byte of the stream comes, and a piece may hold several echoes."""
    whole = Script([(b"", sent, refused) for _, sent, refused in script.steps])
    whole.steps.append((b"".join(data for data, _, _ in script.steps), [], []))
    assert play(whole, cuts, True)[0] == play(whole, cuts, False)[0]


SENT = transaction(7, [[(0, pack(b"INCR", b"a"))], [(2, pack(b"del", b"b", b"c")), (1, pack(b"INCR", b"d"))]])


@pytest.mark.parametrize(("selected", "within"), [(0, False), (1, False), (1, True)], ids=["no", "before", "within"])
def test_an_echo_that_comes_byte_by_byte_or_in_two_is_compared(selected: int, within: bool) -> None:
    data = select(selected) + shown(SENT, selected, within) + pack(b"INCR", b"e")
    script = Script([(data, [SENT], [])])
    for cuts in [[1], *([cut, len(data)] for cut in range(1, len(data)))]:
        found, subject, awaited = play(script, cuts, True)
        assert found == play(script, cuts, False)[0]
        assert (subject.compared, len(awaited), awaited.bytes) == (1, 0, 0)


def entry_of(data: bytes, sent: Transaction) -> Entry:
    awaited = AwaitedEchoes()
    awaited.add(sent.echo(), PLENTY)
    (entry,) = StreamReader(Position(REPLID, 0, 0), KEY, awaited).feed(data)
    return entry


def test_what_looks_like_an_echo_in_another_database_is_a_client_write() -> None:
    data = select(1) + SENT.payload[: SENT.size]  # no server of ours says so: its SELECT 0 is missing
    entry = entry_of(data, SENT)
    assert entry.sent is None and entry.tag is None and entry.commands[0].database == 1


def test_the_commands_of_an_echo_are_read_when_they_are_asked_for() -> None:
    entry = entry_of(SENT.payload[: SENT.size], SENT)
    assert entry.sent is not None and entry._commands is None
    assert [(c.name, c.args[1:], c.database) for c in entry.commands] == [
        (b"INCR", [b"a"], 0),
        (b"DEL", [b"b", b"c"], 2),
        (b"INCR", [b"d"], 1),
    ]
    assert entry.tag == SENT.tag == Tag.decode(SENT.tag.encode())


def test_a_deletion_by_the_server_within_a_transaction_is_seen() -> None:
    data = SENT.payload[: SENT.size].replace(pack(b"INCR", b"a"), pack(b"DEL", b"a") + pack(b"INCR", b"a"))
    entry = entry_of(data, SENT)
    assert entry.sent is None
    assert [c.args for c in deleted_by_server(entry)] == [[b"DEL", b"a"]]


def test_keys_that_bisync_keeps_for_itself_are_found_in_an_echo() -> None:
    sent = transaction(1, [[(0, pack(b"SET", b"bisync:job:beat", b"5"))]]).echo()
    assert sent.names(b"bisync:job:open", b"bisync:job:beat") and not SENT.echo().names(b"bisync:job:beat")
    assert transaction(1, []).echo().bare and not sent.bare


@pytest.mark.parametrize(
    ("parts", "operations", "whole"),
    [([b"a", b"b"], 2, True), ([b"a"], 2, False), ([b"a", b"b", b"c"], 1, True), ([], 1, False)],
    ids=["many", "one of many refused", "one of three commands", "one, refused"],
)
def test_an_echo_knows_whether_a_copied_key_is_missing(parts: list[bytes], operations: int, whole: bool) -> None:
    item = Item("copied", [(0, pack(b"SET", key, b"v")) for key in parts], 1, (1, 0, 1), operations=operations)
    link = Link(KEY, batch_commands=10, batch_bytes=1000)
    assert link.send([item], (1, 0, 1), Tag("job", 1, "e"), lambda: []).echo().whole is whole


def test_what_is_kept_is_bounded_and_given_up_when_it_is_read() -> None:
    awaited = AwaitedEchoes()
    echoes = [transaction(n, [[(0, pack(b"INCR", b"a"))]]).echo() for n in range(4)]
    bound = 3 * echoes[0].memory
    assert echoes[0].memory == len(echoes[0].payload) + ECHO_BYTES + 2 * 8  # INCR and EXEC
    for echo in echoes:
        awaited.add(echo, bound)
    assert (len(awaited), awaited.bytes) == (3, bound)
    awaited.take_back(echoes[3].tag)  # it was not kept
    assert len(awaited) == 3
    awaited.take_back(echoes[2].tag)
    awaited.seen(echoes[3].marker)
    assert len(awaited) == 2
    awaited.seen(echoes[1].marker)
    assert (len(awaited), awaited.bytes, awaited.first) == (0, 0, None)


def test_an_echo_that_is_not_kept_is_read_and_those_after_it_are_compared() -> None:
    first, second, third = (transaction(n, [[(0, pack(b"INCR", b"a"))]]) for n in range(3))
    awaited = AwaitedEchoes()
    for one in (first, third):
        awaited.add(one.echo(), PLENTY)
    subject = StreamReader(Position(REPLID, 0, 0), KEY, awaited)
    entries = subject.feed(b"".join(one.payload[: one.size] for one in (first, second, third)))
    assert [entry.tag for entry in entries] == [first.tag, second.tag, third.tag]
    assert [entry.sent is not None for entry in entries] == [True, False, True]


def test_a_pair_compares_its_echoes_and_keeps_none_of_them() -> None:
    pair = SimulatedPair(Rules("job", "east", "west", heartbeat_ms=0))
    for n in range(20):
        pair.sites["east"].connect().execute(pack(b"SET", b"copied:%d" % n, b"v"))
    pair.start()
    pair.drain()
    for site in ("east", "west"):
        for n in range(20):
            pair.sites[site].connect().execute(pack(b"SET", b"%b:%d" % (site.encode(), n), b"v"))
        pair.drain()
    assert pair.pair is not None
    for channel in pair.pair.channels.values():
        assert channel.reader is not None and channel.reader.compared >= 1
        assert (len(channel.pending.awaited), channel.pending.bytes) == (0, 0)
    assert pair.dataset("east") == pair.dataset("west")


# -- real servers
class World:
    """A server, a connection that writes as bisync does, and one that reads its stream."""

    def __init__(self, server: LocalServer) -> None:
        self.client, self._server, self._numbers = server.client(), server, 0
        self._stream = socket.create_connection(("127.0.0.1", server.port), 20)
        file = self._stream.makefile("rb")
        self._stream.sendall(b"PSYNC ? -1\r\n")
        while not (line := file.readline()).startswith(b"$"):
            pass
        file.read(int(line[1:]))
        self._file, self.awaited = file, AwaitedEchoes()
        self.reader = StreamReader(Position(REPLID, 0, 0), KEY, self.awaited)

    def apply(self, *items: Sequence[Part]) -> Entry:
        """Send a transaction; its echo."""
        self._numbers += 1
        sent = transaction(self._numbers, items)
        self.awaited.add(sent.echo(), PLENTY)
        with socket.create_connection(("127.0.0.1", self._server.port), 20) as writer, writer.makefile("rb") as file:
            writer.sendall(sent.payload)
            while file.readline() != b"$%d\r\n" % len(sent.tag.encode()):  # the guard's GET is the last
                pass
        while True:
            for entry in self.reader.feed(self._file.read1()):  # type: ignore[attr-defined]
                if entry.tag == sent.tag:
                    return entry

    def close(self) -> None:
        self.client.close()
        self._file.close()
        self._stream.close()


@pytest.fixture(params=RELEASES)
def world(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> Iterator[World]:
    server = LocalServer(tmp_path, program=program(request.param)).start()
    try:
        world = World(server)
        yield world
        world.close()
    finally:
        server.stop()


@pytest.mark.slow
def test_servers_show_transactions_as_they_were_sent(world: World) -> None:
    world.client.set("dumped", "v")
    dump = world.client.dump("dumped")
    plain = [
        *((0, pack(b"SET", b"k%d" % n, b"v")) for n in range(50)),
        (0, pack(b"INCR", b"n")),
        (0, pack(b"HSET", b"h", b"f", b"v")),
        (0, pack(b"RESTORE", b"r", 0, dump)),
        (0, pack(b"del", b"k7", b"k8")),
    ]
    both = [(3, pack(b"INCR", b"a")), (11, pack(b"INCR", b"b")), (0, pack(b"INCR", b"n"))]
    entries = [world.apply(plain), world.apply(both, both[:1]), world.apply(both)]
    world.client.execute_command("SELECT", 5)
    world.client.set("a", "client's")  # leaves another database selected
    entries.append(world.apply(both))
    assert [entry.sent is not None for entry in entries] == [True] * 4
    assert world.reader.compared == 4
    assert [(c.args[0], c.database) for c in entries[1].commands][-1] == (b"INCR", 3)
    assert not len(world.awaited)


@pytest.mark.slow
def test_servers_show_what_they_did_themselves(world: World) -> None:
    nothing, counted = (0, pack(b"del", b"nothing")), (0, pack(b"INCR", b"n"))
    entry = world.apply([nothing, counted, nothing, nothing, counted, (0, pack(b"SREM", b"none", b"a")), counted])
    assert entry.sent is not None and [c.args for c in entry.commands] == [[b"INCR", b"n"]] * 3
    assert not entry.sent.whole  # but for deletions, what had no effect may be worth a look
    entry = world.apply([nothing, counted])
    assert entry.sent is not None and entry.sent.whole
    world.client.set("k", "v")
    assert world.apply([(0, pack(b"PEXPIREAT", b"k", 1)), counted]).sent is None
    assert not len(world.awaited)
    _expect_deletion(world)


def _us(moment: tuple[int, int]) -> int:
    return moment[0] * 1_000_000 + moment[1]


def _expect_deletion(world: World) -> None:
    """A key that expires just when a transaction comes to it; the timer may be quicker."""
    for _ in range(200):
        before = world.client.time()
        world.client.set("soon", "v", px=1)
        while _us(world.client.time()) - _us(before) < 5_000:
            pass
        entry = world.apply([(0, pack(b"INCR", b"n")), (0, pack(b"APPEND", b"soon", b"x"))])
        if deletions := deleted_by_server(entry):
            assert [c.args for c in deletions] in ([[b"DEL", b"soon"]], [[b"UNLINK", b"soon"]])
            assert entry.sent is None
            return
    pytest.fail("the server never deleted the key within the transaction")

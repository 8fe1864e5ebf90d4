"""The command table against a real server: its command list, its replication stream, and what commands do there."""

from collections.abc import Iterator
from typing import Any

import pytest
import redis

from bisync.core.commands import Args, absolute_expiry, footprint, known_row, normalise, restrict, row
from bisync.core.patterns import Scope
from bisync.testing.samples import MOMENT_MS, SAMPLES, Sample, unknown_to
from tests.runtime.command_servers import Dataset, Server, Stream, changes, covers, spoilers, unit

CALLABLE = [s for s in SAMPLES if s.call]
WITHOUT_THE_FLAG = "PFCOUNT PUBLISH SPUBLISH SELECT MULTI EXEC PING REPLCONF SCRIPT EVAL EVALSHA"
EACH_SAMPLE = pytest.mark.parametrize(
    "sample", CALLABLE, ids=lambda s: b" ".join(s.call)[:40].decode("latin-1"), indirect=True
)


@pytest.fixture
def sample(request: pytest.FixtureRequest, servers: tuple[Server, Server]) -> Sample:
    """The sample, where the server has its commands; else the test is skipped, and says so."""
    chosen: Sample = request.param
    if unknown_to(servers[0].known, chosen):
        pytest.skip(f"this server does not know {', '.join(unknown_to(servers[0].known, *SAMPLES))}")
    return chosen


@pytest.fixture(scope="module")
def stream(servers: tuple[Server, Server]) -> Iterator[Stream]:
    opened = Stream(servers[0].local)
    yield opened
    opened.close()


# -- the server's own command list
def commands_that_write(client: "redis.Redis") -> Iterator[str]:
    for entry in client.execute_command("COMMAND"):
        for name, flags in [(entry[0], entry[2]), *((sub[0], sub[2]) for sub in entry[9])]:
            if b"write" in flags or b"may_replicate" in flags:
                yield name.decode().upper().replace("|", " ")


def test_every_command_that_can_be_in_a_stream_has_a_row(servers: tuple[Server, Server]) -> None:
    names = {n.split()[0] for n in commands_that_write(servers[0].client)} | set(WITHOUT_THE_FLAG.split())
    assert len(names) > 110
    assert [n for n in sorted(names) if row(n.encode()) is None] == []


def test_every_write_command_has_a_sample(servers: tuple[Server, Server]) -> None:
    assert set(commands_that_write(servers[0].client)) - {s.name for s in SAMPLES} == set()
    assert all(s.call or s.reason for s in SAMPLES)


@EACH_SAMPLE
def test_keys_are_where_the_server_finds_them(servers: tuple[Server, Server], sample: Sample) -> None:
    try:
        keys = servers[0].client.execute_command("COMMAND", "GETKEYS", *sample.call)
    except redis.ResponseError as e:
        assert "no key arguments" in str(e) or len(sample.call) == 1  # of FLUSHALL alone it says that a word is missing
        keys = []
    assert sorted(sample.call[n] for n in known_row(sample.call[0]).key_positions(sample.call)) == sorted(keys)


# -- what commands do
@EACH_SAMPLE
def test_unconditional_form_does_the_same(servers: tuple[Server, Server], sample: Sample) -> None:
    one, two = servers
    for server, call in ((one, sample.call), (two, normalise(sample.call))):
        server.begin(sample.setup)
        before = server.dataset()
        server.run([call])
    done = one.dataset()
    assert same(done, two.dataset())
    row_ = known_row(sample.call[0])
    assert done != before or row_.family == "server" or row_.name in (b"PFCOUNT", b"PFDEBUG"), "no effect"


def same(a: tuple[Dataset, Any], b: tuple[Dataset, Any]) -> bool:
    """Equal but for the moments that relative expiries give, which follow the clock."""
    (values, moments), (others, other_moments) = taken_apart(a[0]), taken_apart(b[0])
    if (values, a[1]) != (others, b[1]) or moments.keys() != other_moments.keys():
        return False
    return all(
        m == o or min(m, o) >= 0 and MOMENT_MS not in (m, o) and abs(m - o) <= 60_000
        for m, o in ((moment, other_moments[name]) for name, moment in moments.items())
    )


def taken_apart(dataset: Dataset) -> tuple[dict[Any, Any], dict[Any, int]]:
    """Values without expiries, and the expiries of keys and fields."""
    values: dict[Any, Any] = {}
    moments: dict[Any, int] = {}
    for place, (kind, value, at_ms) in dataset.items():
        moments[place] = at_ms
        if kind == b"hash":
            moments.update({(place, field): expires for field, (_, expires) in value.items()})
            value = {field: content for field, (content, _) in value.items()}
        values[place] = (kind, value)
    return values, moments


@EACH_SAMPLE
def test_stream_applied_elsewhere_gives_the_same(
    servers: tuple[Server, Server], stream: Stream, sample: Sample
) -> None:
    one, two = servers
    one.begin(sample.setup)
    one.run([(b"PUBLISH", b"marker", b"begin"), sample.call, (b"PUBLISH", b"marker", b"end")])
    stream.until(b"begin")
    sent = stream.until(b"end")
    assert sent, "nothing was sent"
    handled = [known_row(command[0]).handling for command in sent]
    assert set(handled) <= {"copied", "changed", "control"}
    assert not [c for c in sent if known_row(c[0]).reason.startswith("sent")], "the table says it is never sent"
    two.begin(sample.setup)
    two.run([normalise(absolute_expiry(command, 0)) for command in sent])
    assert one.dataset() == two.dataset()


@EACH_SAMPLE
def test_nothing_changes_outside_of_the_footprint(servers: tuple[Server, Server], sample: Sample) -> None:
    server = servers[0]
    if sample.call == (b"EXPIRE", b"s", b"-1"):
        return  # servers send a moment that has passed as DEL
    for call in (sample.call, normalise(sample.call)):
        server.begin(sample.setup)
        before, _ = server.dataset()
        server.run([call])
        after, _ = server.dataset()
        writes = footprint(call, 0).writes
        changed = [c for place in before.keys() | after.keys() for c in changes(place, before, after)]
        assert [c for c in changed if not any(covers(w, c) for w in writes)] == []


@EACH_SAMPLE
def test_overwriting_leaves_nothing_of_what_was_there(servers: tuple[Server, Server], sample: Sample) -> None:
    server, call = servers[0], normalise(absolute_expiry(sample.call, MOMENT_MS))
    writes = [w for w in footprint(call, 0).writes if w.overwrites]
    for write in writes:
        outcomes = []
        for spoiled in ((), *spoilers(write)):
            server.begin(sample.setup)
            server.run([s for s in (spoiled,) if s])
            server.run([call])
            outcomes.append(unit(write, *server.dataset()))
        assert all(o == outcomes[0] for o in outcomes)


def test_entry_of_a_producer_is_added_once(servers: tuple[Server, Server], stream: Stream) -> None:
    """A server that knows IDMP sends the second attempt too, without an id; nothing must come of it."""
    one, two = servers
    if b"xidmprecord" not in one.known:
        pytest.skip("this server does not know XADD IDMP")
    attempt: Args = (b"XADD", b"x", b"IDMP", b"producer", b"1", b"*", b"f", b"v")
    one.begin([(b"XADD", b"x", b"1-1", b"f", b"v")])
    two.begin([(b"XADD", b"x", b"1-1", b"f", b"v")])
    one.run([(b"PUBLISH", b"marker", b"begin"), attempt, attempt, (b"PUBLISH", b"marker", b"end")])
    stream.until(b"begin")
    sent = [command for command in stream.until(b"end") if command[0] == b"XADD"]
    assert len(sent) == 2 and sent[1][5] == b"*"
    copied = [restrict(normalise(command), 0, Scope()) for command in sent]
    assert [c is None for c in copied] == [False, True]
    two.run([c for c in copied if isinstance(c, tuple)])
    entries = [server.client.execute_command("XRANGE", "x", "-", "+") for server in servers]
    assert entries[0] == entries[1] and len(entries[0]) == 2

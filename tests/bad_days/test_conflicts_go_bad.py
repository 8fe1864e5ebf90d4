"""Bad days of concurrent writes, on real servers: the sites end equal, and nothing is lost silently.

What one site's clients wrote is in the end at both sites, or in the log of conflicts, or an event says what happened.
"""

import contextlib
import pathlib
import random
import signal
import time
from collections.abc import Callable, Iterator, Sequence

import pytest

from bisync.runtime.conflict_record import ConflictRecord
from bisync.runtime.conflict_table import Wanted
from bisync.runtime.mirror import AGAIN_S
from bisync.runtime.store import Event, Store
from bisync.verify import verify
from tests.bad_days.cutter import Cutter
from tests.bad_days.harness import QUICK, SECRET, BadDay, Meddler, SmallDisk, running
from tests.system.world import EngineProcess, wait_until

pytestmark = pytest.mark.slow

Words = Sequence[object]
SITES = ("east", "west")


@contextlib.contextmanager
def apart(engine: EngineProcess) -> Iterator[None]:
    """Neither site sees what is written at the other within the block."""
    engine.send(signal.SIGSTOP)
    path = pathlib.Path(f"/proc/{engine.process.pid}/stat")
    wait_until(lambda: path.read_text().rpartition(")")[2].split()[0] == "T", "the engine is frozen")
    try:
        yield
    finally:
        engine.send(signal.SIGCONT)


def do(day: BadDay, site: str, *commands: Words) -> None:
    """Client writes, each accepted."""
    with day.servers[site].client() as client:
        for words in commands:
            client.execute_command(*words)  # type: ignore[no-untyped-call]


def conflicts(day: BadDay, key: bytes | None = None) -> list[ConflictRecord]:
    """What the log has, oldest first."""
    with Store.open(day.job.store, create=False) as store:
        return list(store.conflicts.read(day.job.name, store.conflicts.find(day.job.name, Wanted(key=key))))


def settled(day: BadDay, engine: EngineProcess) -> None:
    """All is applied, nothing is open, both sites hold the same, and the log says so."""
    day.wait_drained(engine)
    day.assert_equal()
    wait_until(lambda: all(r.state == "settled" for r in conflicts(day)), f"settled in the log: {conflicts(day)}")


# -- commands that fail where they meet another value

I64 = 2**63 - 1
PAIRS: dict[str, tuple[list[Words], list[Words], list[Words]]] = {
    # name: what both held before, what east writes, what west writes; all of it succeeds where it is written
    "a counter": ([("SET", "k", I64 - 5)], [("INCRBY", "k", 4)], [("INCRBY", "k", 3)]),
    "a counter downwards": ([("SET", "k", 4 - I64)], [("DECRBY", "k", 3)], [("DECRBY", "k", 4)]),
    "a counter of a hash": (
        [("HSET", "k", "f", I64 - 5, "g", 1)],
        [("HINCRBY", "k", "f", 4)],
        [("HINCRBY", "k", "f", 3)],
    ),
    "a counter beside other fields": (
        [("HSET", "k", "f", I64 - 5)],
        [("HINCRBY", "k", "f", 4), ("HSET", "k", "east", 1)],
        [("HINCRBY", "k", "f", 3), ("HSET", "k", "west", 1)],
    ),
}


@pytest.mark.parametrize("name", PAIRS)
def test_two_increments_that_are_too_much_together(tmp_path: pathlib.Path, name: str) -> None:
    """They commute, so it is no conflict; but each fails where the other was. No sum can stand: an event says so."""
    before, east, west = PAIRS[name]
    with running(tmp_path) as (day, engine):
        do(day, "east", *before)
        day.wait_drained(engine)
        with apart(engine):
            do(day, "east", *east)
            do(day, "west", *west)
        settled(day, engine)
        assert "overflow" in engine.text or "differed" in engine.text, engine.text
        events = [event for event in day.status()["events"] if event["kind"] == "unequal"]
        assert events and "k" in events[0]["text"], day.status()["events"]
        day.finish(engine)


def test_a_counter_that_is_too_much_goes_on_afterwards(tmp_path: pathlib.Path) -> None:
    with running(tmp_path) as (day, engine):
        do(day, "east", ("SET", "k", I64 - 5))
        day.wait_drained(engine)
        for n in range(3):
            with apart(engine):
                do(day, "east", ("INCRBY", "k", 3))
                do(day, "west", ("INCRBY", "k", 3))
            settled(day, engine)
            do(day, SITES[n % 2], ("DECRBY", "k", 3))
            settled(day, engine)
        day.finish(engine)


OTHER_TYPES: dict[str, list[Words]] = {
    "string": [("SET", "k", "text")],
    "list": [("LPUSH", "k", "item")],
    "set": [("SADD", "k", "member")],
    "sorted set": [("ZADD", "k", 1, "member")],
    "hash": [("HSET", "k", "field", "value")],
    "stream": [("XADD", "k", "1-1", "field", "value")],
    "bits": [("SETBIT", "k", 7, 1)],
    "many": [("RPUSH", "k", *range(50)), ("LPOP", "k"), ("LSET", "k", 3, "x"), ("PEXPIREAT", "k", 4_000_000_000_000)],
}


KINDS = {"string": "string", "bits": "string", "list": "list", "many": "list", "set": "set", "sorted set": "zset"}
KINDS |= {"hash": "hash", "stream": "stream"}


@pytest.mark.parametrize("later", OTHER_TYPES)
def test_a_key_that_became_another_type_at_the_other_site(tmp_path: pathlib.Path, later: str) -> None:
    """One write or both fail where they arrive. The log names the one that stands; of the other one nothing is silent.

    Its value is in the log, or an event says which command failed.
    """
    names = [name for name in OTHER_TYPES if KINDS[name] != KINDS[later]]
    with running(tmp_path) as (day, engine):
        with apart(engine):
            for site, other in [("west", "east"), ("east", "west")]:
                for name in names:
                    do(day, other, *_renamed(OTHER_TYPES[name], f"{site}:{name}"))
                time.sleep(0.05)
                for name in names:
                    do(day, site, *_renamed(OTHER_TYPES[later], f"{site}:{name}"))
        settled(day, engine)
        told = "\n".join(event.text for event in _events(day))
        for site in SITES:
            for name in names:
                key = f"{site}:{name}"
                (record,) = conflicts(day, key.encode())
                assert {w.site for w in record.writes} == set(SITES)
                stands = day.east.do("TYPE", key).decode()
                wrote = {site: KINDS[later], ("east" if site == "west" else "west"): KINDS[name]}
                assert stands == wrote[record.winner], f"{key}: {stands} stands; {record}"
                assert record.replaced is not None or key in told, f"{key}: nobody knows what was lost: {record}"
                if record.replaced is not None:
                    assert _type_of(day, record) in (*wrote.values(), "none")
        day.finish(engine)


def _renamed(commands: list[Words], key: str) -> list[Words]:
    return [(words[0], key, *words[2:]) for words in commands]


def _events(day: BadDay) -> list[Event]:
    with Store.open(day.job.store, create=False) as store:
        return store.events(day.job.name, 10_000)


def _type_of(day: BadDay, record: ConflictRecord) -> str:
    """Of the value that was replaced."""
    assert record.replaced is not None
    if record.replaced.kind == "absent":
        return "none"
    assert record.replaced.value is not None
    day.east.do("RESTORE", "bisync:tests:check", 0, record.replaced.value, "REPLACE")
    found = day.east.do("TYPE", "bisync:tests:check").decode()
    day.east.do("DEL", "bisync:tests:check")
    return str(found)


@pytest.mark.parametrize("newer", SITES)
def test_a_list_that_was_cut_where_an_item_of_it_is_set(tmp_path: pathlib.Path, newer: str) -> None:
    with running(tmp_path) as (day, engine):
        do(day, "east", ("RPUSH", "k", "a", "b", "c"))
        day.wait_drained(engine)
        older = "west" if newer == "east" else "east"
        with apart(engine):
            do(day, older, ("LTRIM", "k", 0, 0))
            time.sleep(0.05)
            do(day, newer, ("LSET", "k", 2, "set"))
        settled(day, engine)
        (record,) = conflicts(day, b"k")
        wrote = {older: [b"a"], newer: [b"a", b"b", b"set"]}
        with day.east.client() as client:
            assert client.lrange("k", 0, -1) == wrote[record.winner], record
        told = "\n".join(event.text for event in _events(day))
        assert record.replaced is not None or "LSET" in told, "nobody knows what was lost"
        day.finish(engine)


def test_appends_that_are_too_long_together(tmp_path: pathlib.Path) -> None:
    options = ("--proto-max-bulk-len", "1mb")
    with running(tmp_path, east=options, west=options) as (day, engine):
        with apart(engine):
            for site in SITES:
                do(day, site, ("APPEND", "k", random.Random(site).randbytes(700_000)))
        settled(day, engine)
        (record,) = conflicts(day, b"k")
        assert record.replaced is not None and record.replaced.size > 600_000
        day.finish(engine)


# -- keys that are too big

SMALL = QUICK + "[conflicts]\nrebuild_bytes = 65536\n"
BIG: dict[str, tuple[list[Words], list[Words]]] = {
    "string": ([("SET", "k", "e" * 300_000)], [("SET", "k", "w" * 400_000)]),
    "list": (
        [("RPUSH", "k", *(f"east {n}" for n in range(9_000)))],
        [("RPUSH", "k", *(f"west {n}" for n in range(9_000)))],
    ),
    "hash": (
        [("DEL", "k"), ("HSET", "k", *(f"e{n}" for n in range(18_000)))],
        [("DEL", "k"), ("HSET", "k", *(f"w{n}" for n in range(18_000)))],
    ),
    "set": (
        [("SADD", "src", *(f"east {n}" for n in range(9_000))), ("SUNIONSTORE", "k", "src")],
        [("SADD", "src", *(f"west {n}" for n in range(9_000))), ("SUNIONSTORE", "k", "src")],
    ),
    "sorted set": (
        [("ZADD", "z", *_scored) for _scored in [[x for n in range(9_000) for x in (n, f"east {n}")]]]
        + [("ZUNIONSTORE", "k", 1, "z")],
        [("ZADD", "z", *_scored) for _scored in [[x for n in range(9_000) for x in (n / 7, f"west {n}")]]]
        + [("ZUNIONSTORE", "k", 1, "z")],
    ),
}


@pytest.mark.parametrize("kind", BIG)
def test_a_key_too_big_for_one_piece_written_at_both_sites(tmp_path: pathlib.Path, kind: str) -> None:
    with running(tmp_path, tables=SMALL) as (day, engine):
        if kind == "hash":
            do(day, "east", ("HSET", "k", "before", 1))
            day.wait_drained(engine)
        with apart(engine):
            for site, commands in zip(SITES, BIG[kind], strict=True):
                do(day, site, *commands)
        settled(day, engine)
        whole = [r for r in conflicts(day, b"k") if r.element is None]
        assert len(whole) == 1, conflicts(day, b"k")
        assert whole[0].replaced is not None and whole[0].replaced.value is None
        assert whole[0].replaced.size > 65_536
        assert "too big" not in str(day.status()["reason"])
        text = day.bisync("conflicts", status=0)
        assert "k" in text
        day.finish(engine)


# -- a restore that is refused

OOM = "OOM command not allowed"


def test_a_restore_refused_for_memory_is_made_up_for(tmp_path: pathlib.Path) -> None:
    """The site takes small writes, and not the value that must be put there."""
    with running(tmp_path, tables=QUICK + '[conflicts]\npolicy = "prefer:east"\n') as (day, engine):
        with apart(engine):
            do(day, "east", ("SET", "k", random.Random(1).randbytes(6_000_000)))
            do(day, "west", ("SET", "k", "small"))
            used = int(day.east.do("INFO", "memory").get("used_memory"))
            day.east.do("CONFIG", "SET", "maxmemory", used + 1_000_000)
        # the value of east stands: it goes to west by itself, and comes back to east as a restore
        day.logs(engine, "OOM")
        wait_until(lambda: _says_why(day, engine), f"status says why: {day.status()}")
        assert day.status()["conflicts"]["open"] >= 1
        day.east.do("CONFIG", "SET", "maxmemory", 0)
        settled(day, engine)
        assert day.east.do("STRLEN", "k") == 6_000_000
        day.finish(engine)


def _says_why(day: BadDay, engine: EngineProcess) -> bool:
    engine.check()
    document = day.status()
    refuses = document["state"] == "suspended" and "OOM" in document["reason"] and "east" in document["reason"]
    return refuses or any("OOM" in u["why"] and u["key"] == "k" for u in document["conflicts"]["unsettled"])


@pytest.mark.parametrize("site", SITES)
def test_no_memory_at_all_when_the_restore_comes(tmp_path: pathlib.Path, site: str) -> None:
    with running(tmp_path, tables=QUICK + f'[conflicts]\npolicy = "prefer:{site}"\n') as (day, engine):
        with apart(engine):
            for n in range(50):
                do(day, "east", ("SET", f"k{n}", "e"), ("RPUSH", f"l{n}", "e"))
                do(day, "west", ("SET", f"k{n}", "w"), ("RPUSH", f"l{n}", "w"))
            day.servers[site].do("CONFIG", "SET", "maxmemory", 1)
        day.logs(engine, f"{site} refuses writes: OOM")
        day.in_state(engine, "suspended", "raise maxmemory")
        day.servers[site].do("CONFIG", "SET", "maxmemory", 0)
        day.logs(engine, f"{site} takes writes again")
        settled(day, engine)
        assert day.east.do("GET", "k1") == site[:1].encode()
        assert len(conflicts(day)) == 100
        day.finish(engine)


# -- a site that goes away in the middle of a round

MOMENTS = {"probe": b"MEMORY", "fence": b"DUMP", "restore": b"RESTORE", "close": b"HDEL"}
"""A word that bisync sends to a site at this moment of a round, and not before."""

SAVES = ("--save", "3600 1", "--appendonly", "no")


@pytest.mark.parametrize(
    "how", ["cut before it arrives", "cut before the answer", "frozen", "killed clients", "restarted"]
)
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_site_that_goes_away_in_the_middle_of_a_round(tmp_path: pathlib.Path, moment: str, how: str) -> None:
    with contextlib.ExitStack() as stack:
        day = stack.enter_context(BadDay(tmp_path, east=SAVES, west=SAVES))
        cutters = {site: stack.enter_context(Cutter(day.servers[site])) for site in SITES}
        for site, cutter in cutters.items():
            day.urls[site] = cutter.url
        day.write_job_file()
        engine = day.synchronised_engine()
        with apart(engine):
            for n in range(20):
                do(day, "east", ("SET", f"k{n}", f"e{n}"), ("RPUSH", f"l{n}", "e"), ("HSET", f"h{n}", "f", "e", "e", 1))
                do(day, "west", ("SET", f"k{n}", f"w{n}"), ("RPUSH", f"l{n}", "w"), ("HSET", f"h{n}", "f", "w", "w", 1))
            for site, cutter in cutters.items():
                cutter.watch(
                    MOMENTS[moment], lambda site=site: _strike(day, site, how), after=how != "cut before it arrives"
                )
        wait_until(lambda: engine.check() and any(c.struck.is_set() for c in cutters.values()), f"the {moment} comes")
        for cutter in cutters.values():
            cutter.stop_watching()
        settled(day, engine)
        with day.east.client() as client:
            for n in range(20):
                assert client.hget(f"h{n}", "e") == client.hget(f"h{n}", "w") == b"1"
        records = conflicts(day)
        assert len(records) == len({(r.key, r.element) for r in records}) == 60
        day.finish(engine)


def _strike(day: BadDay, site: str, how: str) -> bool:
    """Something happens to a site. Is the connection cut then?"""
    server = day.servers[site]
    if how == "frozen":
        server.pause()
        time.sleep(0.3)
        server.resume()
        return False
    if how == "killed clients":
        server.do("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        server.do("CLIENT", "KILL", "TYPE", "replica")
        return False
    if how == "restarted":
        server.stop(signal.SIGTERM)
        server.start()
    return True


def test_a_site_that_loses_its_newest_data_in_the_middle_of_a_round(tmp_path: pathlib.Path) -> None:
    """A killed server begins a new history: bisync says so and applies nothing over the gap."""
    with running(tmp_path, east=("--appendonly", "yes", "--appendfsync", "always")) as (day, engine):
        with apart(engine):
            for n in range(200):
                do(day, "east", ("SET", f"k{n}", f"e{n}"))
                do(day, "west", ("SET", f"k{n}", f"w{n}"))
        wait_until(lambda: engine.check() and day.status()["conflicts"]["total"], "conflicts are found")
        day.east.stop(signal.SIGKILL)
        day.east.start()
        day.ended(engine, "east: the stream after offset", "a new replication history", "bisync reset")
        assert day.status()["state"] == "failed"
        assert "Traceback" not in day.bisync("conflicts", status=0)


# -- many conflicts

SECONDS, RATE = 4.0, 1_000  # how long both sites write, and how many times a second each


def test_a_thousand_conflicts_a_second_on_one_key(tmp_path: pathlib.Path) -> None:
    with running(tmp_path) as (day, engine):
        resident = _resident(engine)
        done = _write_together(day, lambda site, n: ("SET", "hot", f"{site} {n}"))
        settled(day, engine)
        assert _resident(engine) - resident < 100 << 20
        records = conflicts(day, b"hot")
        met = {site: sum(r.counts[site] for r in records) for site in SITES}
        print(f"{done} writes at each site, {met} met, {len(records)} records")
        assert len(records) >= 1 and max(met.values()) <= done, "a write is counted once"
        assert min(met.values()) > done // 2, "few writes met: this test shows nothing"
        assert all(len(r.writes) <= 12 for r in records)
        assert day.job.store.stat().st_size < 64 << 20
        day.finish(engine)


def test_a_thousand_conflicts_a_second_on_many_keys(tmp_path: pathlib.Path) -> None:
    """The store keeps up, and the log stays within its bound."""
    with running(tmp_path, tables=QUICK + "[conflicts]\nkeep_entries = 500\n") as (day, engine):
        resident, began_s = _resident(engine), time.monotonic()
        done = _write_together(day, lambda site, n: ("SET", f"k{n}", f"{site} {n}"))
        wait_until(lambda: day.status()["conflicts"]["unrecorded"] == 0, "the store keeps up")
        settled(day, engine)
        seconds = time.monotonic() - began_s
        total = day.status()["conflicts"]["total"]
        print(f"{done} writes at each site, {total} conflicts in {seconds:.1f} s: {total / seconds:.0f} records/s")
        assert total > done // 2, "few writes met: this test shows nothing"
        assert _resident(engine) - resident < 100 << 20
        wait_until(lambda: day.status()["conflicts"]["unrecorded"] == 0, "all are on record")
        open_max = 1_500  # of those that were open when the last thousand was trimmed, which stay
        assert len(conflicts(day)) <= 500 + 1_000 + open_max, "trimmed after every thousand"
        day.finish(engine)


def _resident(engine: EngineProcess) -> int:
    """Bytes of memory."""
    lines = pathlib.Path(f"/proc/{engine.process.pid}/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))


def _write_together(day: BadDay, command: Callable[[str, int], Words], bursts: int = 10) -> int:
    """Both sites write at the same time, in turns of some commands. How many at each."""
    clients = {site: day.servers[site].client() for site in SITES}
    began_s, n = time.monotonic(), 0
    while (now_s := time.monotonic() - began_s) < SECONDS:
        if n > now_s * RATE:
            time.sleep(n / RATE - now_s)
        for site, client in clients.items():
            pipe = client.pipeline(transaction=False)
            for m in range(bursts):
                pipe.execute_command(*command(site, n + m))
            pipe.execute()
        n += bursts
    for client in clients.values():
        client.close()
    return n


# -- the job file


def test_a_policy_that_names_no_site_is_a_mistake_and_so_are_all_others(tmp_path: pathlib.Path) -> None:
    tables = """
[conflicts]
policy = "prefer:north"
keep_days = 0
[[conflicts.rules]]
keys = ["a:*"]
policy = "prefer:est"
[[conflicts.rules]]
keys = []
policy = "newest"
[[conflicts.rules]]
keys = ["b:*"]
policy = "prefer:west"
"""
    with BadDay(tmp_path, tables=tables) as day:
        for command in ("run", "precheck", "status", "conflicts"):
            text = day.bisync(command, status=2)
            for place in ("conflicts.policy", "conflicts.keep_days", "conflicts.rules[0].policy"):
                assert place in text, text
            for place in ("conflicts.rules[1].keys", "conflicts.rules[1].policy"):
                assert place in text, text
            assert "conflicts.rules[2]" not in text
            assert "prefer:north" in text and "prefer:est" in text and "'prefer:east'" in text
            assert "Traceback" not in text
        assert day.west.do("DBSIZE") == 0


# -- commands that nobody knows

UNKNOWN = (
    b"$6\r\nAPPEND\r\n",
    b"$6\r\nMYMODS\r\n",
)  # as if a module had written it: the same length, so offsets are right


@contextlib.contextmanager
def with_a_module(folder: pathlib.Path, tables: str = QUICK) -> Iterator[tuple[BadDay, EngineProcess]]:
    """East sends APPEND under a name that bisync does not know."""
    with BadDay(folder, tables=tables) as day, Meddler(day.east, lambda data: data.replace(*UNKNOWN)) as meddler:
        day.urls["east"] = f"redis://:{SECRET}@127.0.0.1:{meddler.port}"
        day.write_job_file()
        yield day, day.synchronised_engine()


def test_an_unknown_command_stops_the_job_before_anything_is_skipped(tmp_path: pathlib.Path) -> None:
    with with_a_module(tmp_path) as (day, engine):
        day.write("east", "before")
        do(day, "east", ("APPEND", "k", "x"))
        day.write("east", "after")
        day.ended(engine, "east sent a command that cannot be copied: MYMODS k x", "does not know", "quarantine")
        assert day.status()["state"] == "failed" and "MYMODS" in day.status()["reason"]
        assert not day.west.do("EXISTS", "east:after"), "what followed it was applied"
        day.refused("MYMODS k x", process=True)
        day.rewrite(tables=QUICK + 'on_refused = "quarantine"\n')
        engine = day.synchronised_engine()
        day.wait_drained(engine)
        day.assert_all_there()
        engine.stop()


def test_an_unknown_command_among_concurrent_writes_is_set_aside_and_the_rest_is_settled(
    tmp_path: pathlib.Path,
) -> None:
    with with_a_module(tmp_path, QUICK + 'on_refused = "quarantine"\n') as (day, engine):
        with apart(engine):
            with day.east.client() as client:
                client.pipeline().set("k", "east").append("unknown", "x").incr("n").execute()  # one transaction
            do(day, "west", ("SET", "k", "west"), ("INCR", "n"), ("APPEND", "other", "x"))
        day.wait_drained(engine)
        assert day.east.do("GET", "k") == day.west.do("GET", "k")
        assert day.east.do("GET", "n") == day.west.do("GET", "n") == b"2"
        assert len(conflicts(day, b"k")) == 1
        assert "MYMODS unknown x" in day.bisync("status", status=0)
        assert [d.key for d in verify(day.job).differences] == [b"unknown"]
        assert day.east.do("GET", "other") == b"x", "west's own APPEND is known"
        engine.stop()


# -- clocks

HOUR_S = 3600
APART_S, DELAY_S = 0.05, 0.3  # between two writes; and until bisync brings one across, so that they have not met before
SITE_CUSTOMIZE = f"""
import os, sys, time

def shift(real, unit):
    def shifted():
        try:
            with open(os.environ["TESTS_CLOCK"]) as file:
                return real() + int(file.read() or 0) * unit
        except (OSError, KeyError, ValueError):
            return real()
    return shifted

time.time, time.time_ns = shift(time.time, 1), shift(time.time_ns, 10**9)

if "run" in sys.orig_argv:
    import trio
    from bisync.runtime.writer import Writer

    send = Writer.send

    async def late(self, *words):
        await trio.sleep({DELAY_S})
        return await send(self, *words)

    Writer.send = late
"""


@pytest.fixture
def jump(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Sets the clock of this machine, as bisync's processes and this one see it; servers keep theirs.

    Also, engines are late with whatever they send.
    """
    (tmp_path / "clock").mkdir()
    (tmp_path / "clock" / "sitecustomize.py").write_text(SITE_CUSTOMIZE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "clock"))
    monkeypatch.setenv("TESTS_CLOCK", str(tmp_path / "clock" / "offset"))
    real, offset_s = time.time, 0
    monkeypatch.setattr(time, "time", lambda: real() + offset_s)

    def jump(seconds: int) -> None:
        nonlocal offset_s
        offset_s += seconds
        fresh = tmp_path / "clock" / "fresh"
        fresh.write_text(str(offset_s))
        fresh.replace(tmp_path / "clock" / "offset")

    return jump


@pytest.mark.parametrize("restarts", [False, True], ids=["while it runs", "between two engines"])
@pytest.mark.parametrize("hours", [1, -1])
def test_the_machines_clock_jumps(
    tmp_path: pathlib.Path, jump: Callable[[int], None], hours: int, restarts: bool
) -> None:
    """The newest write stands before and after, though the writes are only 50 ms apart; the lag stays what it is."""
    with running(tmp_path) as (day, engine):
        _newest_stands(day, engine, "before")
        if restarts:
            engine.kill()
        jump(hours * HOUR_S)
        if restarts:
            engine = day.synchronised_engine()
        _newest_stands(day, engine, "after")
        jump(-2 * hours * HOUR_S)
        _newest_stands(day, engine, "again")
        day.finish(engine)


def _brackets(records: Sequence[ConflictRecord]) -> str:
    """When the writes were made, as the log has it: for a person who wants to know why."""
    return "; ".join(
        ", ".join(f"{w.site} {w.command!r} {w.earliest_us}..{w.latest_us}" for w in record.writes) for record in records
    )


def _newest_stands(day: BadDay, engine: EngineProcess, name: str) -> None:
    clients = {site: day.servers[site].client() for site in SITES}
    for n in range(8):
        older, newer = (clients[site] for site in (SITES if n % 2 else SITES[::-1]))
        older.set(f"{name}:{n}", "older")
        time.sleep(APART_S)
        newer.set(f"{name}:{n}", "newer")
    settled(day, engine)
    records = [record for n in range(8) for record in conflicts(day, f"{name}:{n}".encode())]
    assert all(abs(record.found_ms - time.time() * 1000) < 60_000 for record in records), "the clock has not jumped"
    assert len(records) >= 6, "the writes had seen each other: this test shows nothing"
    # An engine that the machine keeps from running for so long does not know which is newer, and says so.
    sure = [record for record in records if record.certain]
    assert len(sure) >= 4, f"too few are certain: {_brackets(records)}"
    for record in sure:
        assert record.rule == "newest write" and clients["east"].get(record.key) == b"newer", _brackets([record])
    for channel in day.status()["channels"].values():
        assert channel["lag_ms"] is not None and 0 <= channel["lag_ms"] < 5_000, channel
    for client in clients.values():
        client.close()


# -- two engines, and a full disk


@pytest.mark.parametrize("seed", range(3))
def test_another_engine_takes_over_in_the_middle_of_open_arbitrations(tmp_path: pathlib.Path, seed: int) -> None:
    chance = random.Random(seed)
    with running(tmp_path) as (day, first):
        with apart(first):
            _many(day, 150)
        wait_until(lambda: first.check() and day.east.do("EXISTS", "w:149"), "the first one is at work")
        time.sleep(chance.uniform(0, 0.03))
        epoch = _epoch(day)
        with apart(first):  # it may hold the lock of the store: the second one goes on without
            second = day.start_engine()
            wait_until(lambda: second.check() and _epoch(day) > epoch, "the second one takes the job")
            with apart(second):
                _many(day, 20, "again ")
        day.ended(first, "has taken the job", status=3)
        day.wait_synchronizing(second)
        settled(day, second)
        records = conflicts(day)
        assert len(records) == len({(r.key, r.element) for r in records}) == 2 * 170
        day.finish(second)


def _epoch(day: BadDay) -> int:
    tag = day.tag()
    return tag.epoch if tag else 0


def _many(day: BadDay, number: int, name: str = "") -> None:
    """Conflicts over keys and fields: two of each number."""
    for site in SITES:
        with day.servers[site].client() as client:
            pipe = client.pipeline(transaction=False)
            for n in range(number):
                pipe.set(f"{name}k{n}", f"{site} {n}").hset(f"{name}h{n}", "f", f"{site} {n}")
                pipe.set(f"{site[:1]}:{n}", n)
            pipe.execute()


def _settled_at_sites(day: BadDay, number: int) -> bool:
    """Are the conflicts of `_many` over, as the sites hold it?"""
    found = []
    for site in SITES:
        with day.servers[site].client() as client:
            pipe = client.pipeline(transaction=False)
            for n in range(number):
                pipe.get(f"k{n}").hget(f"h{n}", "f")
            found.append(pipe.execute())
            if client.exists("bisync:orders:open"):
                return False
    return found[0] == found[1]


class TestAFullDisk:
    def test_conflicts_wait_for_room(self, tmp_path: pathlib.Path, small_disk: SmallDisk) -> None:
        with BadDay(tmp_path, store="disk/orders.db", tables=QUICK + 'journal = "memory"\n') as day:
            engine = day.synchronised_engine()
            small_disk.fill()
            with apart(engine):
                _many(day, 100)
            day.logs(engine, "The sync goes on")
            wait_until(lambda: engine.check() and _settled_at_sites(day, 100), "all are settled, though not on record")
            time.sleep(2.5 * AGAIN_S)  # the store is tried again meanwhile, and nothing is said of it
            assert len(conflicts(day)) < 200
            small_disk.make_room()
            day.logs(engine, "the store is written again")
            settled(day, engine)
            assert len(conflicts(day)) == 200
            assert all(r.replaced is not None for r in conflicts(day))
            day.finish(engine)

    def test_an_engine_that_is_killed_then_finds_them_again(
        self, tmp_path: pathlib.Path, small_disk: SmallDisk
    ) -> None:
        """No conflict goes off the record. Its value may: the restore was made, and only the engine knew it."""
        with BadDay(tmp_path, store="disk/orders.db") as day:
            engine = day.synchronised_engine()
            small_disk.fill()
            with apart(engine):
                _many(day, 100)
            day.logs(engine, "The sync goes on")
            day.reaches("west", "e:99")
            engine.kill()
            small_disk.make_room()
            engine = day.synchronised_engine()
            settled(day, engine)
            records = conflicts(day)
            assert len(records) == len({(r.key, r.element) for r in records}) == 200
            assert all({w.site for w in r.writes} == set(SITES) for r in records)
            day.finish(engine)

    def test_more_conflicts_than_may_wait_hold_up_the_sync(self, tmp_path: pathlib.Path, small_disk: SmallDisk) -> None:
        with BadDay(tmp_path, store="disk/orders.db", tables=QUICK + 'journal = "memory"\n') as day:
            engine = day.synchronised_engine()
            small_disk.fill()
            with apart(engine):
                _many(day, 5_500)  # 11,000 conflicts, of which 10,000 may wait
            day.logs(engine, "The sync goes on")
            for n in range(3):  # reading stops between two pieces of a stream
                with apart(engine):
                    _many(day, 200, f"more {n} ")
            day.write("east", "held")
            day.logs(engine, "conflicts wait")
            assert not day.west.do("EXISTS", "east:held")
            small_disk.grow()
            small_disk.make_room()
            day.reaches("west", "east:held")
            settled(day, engine)
            assert len(conflicts(day)) == 11_000 + 3 * 400
            day.finish(engine)

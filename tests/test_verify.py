"""Comparing two real servers: every type, expiries, writes under way, and values too large to read at once."""

import json
import pathlib
import threading
import time
from collections.abc import Callable, Iterator

import attrs
import pytest
import redis
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from bisync.cli.verify import command
from bisync.config import load_job
from bisync.errors import SiteError
from bisync.testing.servers import LocalServer, local_servers
from bisync.text import readable
from bisync.verify import Verdict, verify


@attrs.frozen
class Pair:
    """Two empty servers and a folder for the job file."""

    east: LocalServer
    west: LocalServer
    folder: pathlib.Path

    def job_file(self, more: str = "", east: str = "") -> pathlib.Path:
        file = self.folder / "orders.toml"
        file.write_text(f"""name = "orders"
topology = "bidirectional"
[sites.east]
url = "{east or self.east.url}"
[sites.west]
url = "{self.west.url}"
{more}
""")
        return file

    def verify(self, more: str = "", **options: object) -> Verdict:
        quick: dict[str, object] = {"rounds": 1, "pause_s": 0.0, **options}
        verdict = verify(load_job(self.job_file(more)), **quick)  # type: ignore[arg-type]
        assert verdict.equal == (verdict.different == 0)
        return verdict

    def both(self, *words: object, db: int = 0) -> None:
        """The same command at both sites."""
        for server in (self.east, self.west):
            server.client(db).execute_command(*words)


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[LocalServer]]:
    with local_servers(tmp_path_factory.mktemp("verify"), "east", "west") as both:
        yield both


@pytest.fixture
def pair(servers: list[LocalServer], tmp_path: pathlib.Path) -> Pair:
    for server in servers:
        server.client().flushall()
    return Pair(*servers, tmp_path)


def until(condition: Callable[[], bool]) -> None:
    """Wait for it, at most 20 s."""
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline


MANY = 1200  # more than two pages
LONG = "x" * 60  # makes an element long enough for the value to count as large


def fill(client: "redis.Redis") -> None:
    """A key of every type, small and large, so that each way of comparing is used."""
    p = client.pipeline(transaction=False)
    p.set("string", "v").set("string:bytes", b"\x00\xff\r\n").set("string:large", b"x" * 1_200_000)
    p.rpush("list", *range(5)).rpush("list:large", *(f"{n} {LONG}" for n in range(MANY)))
    p.sadd("set:numbers", *range(5)).sadd("set", *(f"member {n}" for n in range(300)))
    p.sadd("set:large", *(f"member {n} {LONG}" for n in range(MANY)))
    p.hset("hash", mapping={"f": "v"}).hset("hash:table", mapping={f"field {n}": n for n in range(300)})
    p.hset("hash:large", mapping={f"field {n} {LONG}": n for n in range(MANY)})
    p.zadd("zset", {"a": 1.5, "b": float("-inf")})
    p.zadd("zset:large", {f"member {n} {LONG}": n / 3 for n in range(MANY)})
    for name, entries in (("stream", 3), ("stream:large", MANY)):
        for n in range(1, entries + 1):
            p.xadd(name, {"n": n, "text": LONG}, id=f"{n}-1")
        p.xgroup_create(name, "group", id="0").xreadgroup("group", "ann", {name: ">"}, count=entries // 2 + 1)
        p.xgroup_createconsumer(name, "group", "idle")
    p.pfadd("hyperloglog", "a", "b").geoadd("places", (13.4, 52.5, "Berlin")).setbit("bits", 77, 1)
    p.set("expiring", "v", pxat=4_000_000_000_000)
    p.execute()


def test_equal_sites_are_equal(pair: Pair) -> None:
    for server in (pair.east, pair.west):
        fill(server.client())
        server.client(7).set("elsewhere", 1)
    for n in range(100, 350):  # another history of the same set: another order in memory
        pair.west.client().srem("set", f"member {n % 300}")
        pair.west.client().sadd("set", f"member {n % 300}")
    keys = pair.east.client().dbsize() + 1
    assert pair.verify() == Verdict(True, keys, 0, ())


CHANGES: dict[str, tuple[object, ...]] = {
    "string": ("APPEND", "string", "!"),
    "string:bytes": ("SETRANGE", "string:bytes", 1, "a"),
    "string:large": ("SETRANGE", "string:large", 1_199_990, "y"),
    "list": ("LSET", "list", 4, "other"),
    "list:large": ("LSET", "list:large", MANY - 1, "other"),
    "set:numbers": ("SADD", "set:numbers", 77),
    "set": ("SREM", "set", "member 77"),
    "set:large": ("SADD", "set:large", "another"),
    "hash": ("HSET", "hash", "f", "w"),
    "hash:table": ("HDEL", "hash:table", "field 77"),
    "hash:large": ("HINCRBY", "hash:large", f"field 777 {LONG}", 1),
    "zset": ("ZADD", "zset", 2, "a"),
    "zset:large": ("ZINCRBY", "zset:large", 0.1, f"member 777 {LONG}"),
    "stream": ("XDEL", "stream", "1-1"),
    "stream:large": ("XDEL", "stream:large", "777-1"),
    "bits": ("SETBIT", "bits", 78, 1),
}


@pytest.mark.parametrize("key", CHANGES)
@pytest.mark.parametrize("site", ["east", "west"])
def test_one_changed_value_is_found(pair: Pair, key: str, site: str) -> None:
    for server in (pair.east, pair.west):
        fill(server.client())
    getattr(pair, site).client().execute_command(*CHANGES[key])
    verdict = pair.verify()
    assert [(d.key.decode(), d.kind) for d in verdict.differences] == [(key, "value")]
    assert verdict.differences[0].source != verdict.differences[0].target


def swap(client: "redis.Redis", key: str, old: str, new: str) -> None:
    """Replace one element by another, so that the numbers of elements agree."""
    if client.type(key) == b"set":
        client.srem(key, old)
        client.sadd(key, new)
    elif client.type(key) == b"hash":
        client.hdel(key, old)
        client.hset(key, new, "v")
    else:
        client.zrem(key, old)
        client.zadd(key, {new: 1})


@pytest.mark.parametrize(
    ("key", "old"),
    [("set:large", f"member 1 {LONG}"), ("hash:large", f"field 1 {LONG}"), ("zset:large", f"member 1 {LONG}")],
)
def test_a_swapped_element_of_a_large_value_is_found(pair: Pair, key: str, old: str) -> None:
    for server in (pair.east, pair.west):
        fill(server.client())
    swap(pair.west.client(), key, old, "new")
    [found] = pair.verify().differences
    assert old[:20] in found.source and "missing" in found.target


@pytest.mark.parametrize(
    "change",
    [
        ("XACK", "{key}", "group", "1-1"),
        ("XCLAIM", "{key}", "group", "bob", 0, "1-1"),
        ("XGROUP", "SETID", "{key}", "group", "0"),
        ("XGROUP", "CREATE", "{key}", "other", "0"),
        ("XGROUP", "DELCONSUMER", "{key}", "group", "idle"),
        ("XSETID", "{key}", "9999-1"),
    ],
)
@pytest.mark.parametrize("key", ["stream", "stream:large"])
def test_stream_groups_are_compared(pair: Pair, key: str, change: tuple[object, ...]) -> None:
    for server in (pair.east, pair.west):
        fill(server.client())
    assert pair.verify().equal
    pair.west.client().execute_command(*(key if word == "{key}" else word for word in change))
    assert [(d.key.decode(), d.kind) for d in pair.verify().differences] == [(key, "value")]


def test_missing_keys_and_other_types(pair: Pair) -> None:
    pair.east.client().set("here", 1)
    pair.west.client(3).set("there", 1)
    pair.east.client().set("mixed", 1)
    pair.west.client().rpush("mixed", 1)
    verdict = pair.verify()
    found = {(d.database, d.key, d.kind) for d in verdict.differences}
    assert found == {(0, b"here", "only-source"), (3, b"there", "only-target"), (0, b"mixed", "type")}
    assert (verdict.compared, verdict.different) == (3, 3)


def test_expiries_may_differ_within_the_tolerance(pair: Pair) -> None:
    now = int(time.time() * 1000)
    pair.east.client().set("k", 1, pxat=now + 100_000)
    pair.west.client().set("k", 1, pxat=now + 101_500)
    assert pair.verify().equal
    [found] = pair.verify(tolerance_ms=1000).differences
    assert found.kind == "expiry" and "expires in" in found.source
    pair.west.client().persist("k")
    assert [d.kind for d in pair.verify().differences] == ["expiry"]


def test_a_key_whose_time_is_up_is_no_difference(pair: Pair) -> None:
    pair.east.client().set("going", 1, px=1500)
    pair.west.client().set("gone", 1, px=1500)
    assert pair.verify().equal
    assert pair.verify(tolerance_ms=0).different == 2


def test_a_key_that_one_site_has_expired_but_not_deleted(pair: Pair) -> None:
    master, replica = pair.east, pair.west
    replica.client().replicaof("127.0.0.1", master.port)
    try:
        until(lambda: replica.client().info("replication")["master_link_status"] == "up")
        master.client().set("k", "v", px=1)
        until(lambda: replica.client().get("k") is None)
        assert pair.verify().equal
    finally:
        replica.client().replicaof("NO", "ONE")


def test_own_keys_are_no_part_of_it(pair: Pair) -> None:
    pair.west.client().set("bisync:orders:tag:forward", "x")
    pair.east.client().set("bisync:orders:beat", "x")
    assert pair.verify() == Verdict(True, 0, 0, ())


def test_only_what_is_in_scope_is_compared_with_its_mapping(pair: Pair) -> None:
    scope = '[objects]\ndatabases = { 3 = 5 }\ninclude = ["order:*"]\nexclude = ["order:tmp:*"]'
    pair.east.client(3).mset({"order:1": "a", "order:2": "b", "order:tmp:1": "c", "other": "d"})
    pair.west.client(5).mset({"order:1": "a", "order:3": "b", "order:tmp:2": "c", "another": "d"})
    pair.west.client(3).set("order:9", "not copied to")
    pair.east.client(5).set("order:9", "not copied from")
    verdict = pair.verify(scope)
    assert {(d.database, d.key, d.kind) for d in verdict.differences} == {
        (3, b"order:2", "only-source"),
        (3, b"order:3", "only-target"),
    }
    assert verdict.compared == 3


def test_the_list_is_bounded_and_the_count_is_not(pair: Pair) -> None:
    pair.east.client().mset({f"k{n}": n for n in range(700)})
    verdict = pair.verify(listed=10)
    assert (verdict.compared, verdict.different, len(verdict.differences)) == (700, 700, 10)


def test_candidates_are_bounded(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bisync.verify.CANDIDATES", 100)
    pair.east.client().mset({f"k{n}": n for n in range(1500)})
    verdict = pair.verify(rounds=2)
    assert verdict.different == 1500
    assert len({d.key for d in verdict.differences}) == len(verdict.differences) == 1000


def test_a_write_under_way_is_no_difference(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    pair.east.client().set("late", "new")
    pair.west.client().set("late", "old")
    pair.east.client().set("lasting", "new")

    def arrives(seconds: float) -> None:
        pair.west.client().set("late", "new")

    monkeypatch.setattr("bisync.verify.time.sleep", arrives)
    verdict = pair.verify(rounds=2)
    assert [d.key for d in verdict.differences] == [b"lasting"]


def test_a_replica_under_load_is_equal(pair: Pair) -> None:
    """A real replica, never more than one round of writes behind, while every type is written: no false alarm."""
    pair.west.client().replicaof("127.0.0.1", pair.east.port)
    stop = threading.Event()

    def write() -> None:
        client = pair.east.client()
        for n in range(1_000_000):
            if stop.is_set():
                return
            with client.pipeline(transaction=False) as p:
                p.set(f"s{n % 50}", n).rpush(f"l{n % 20}", n).ltrim(f"l{n % 20}", -50, -1)
                p.hset(f"h{n % 20}", str(n % 200), n).sadd(f"m{n % 20}", n % 300).srem(f"m{n % 20}", n * 7 % 300)
                p.zadd(f"z{n % 20}", {str(n % 200): n}).xadd(f"x{n % 5}", {"n": n}, maxlen=100)
                p.execute_command("WAIT", 1, 1000)
                p.execute()

    writer = threading.Thread(target=write)
    try:
        # Wait for a first write to arrive: no stream is sent before the replica has said that it is loaded.
        pair.east.client().set("first", 1)
        until(lambda: pair.west.client().get("first") is not None)
        writer.start()
        verdicts = [pair.verify(rounds=3, pause_s=0.02) for _ in range(5)]
    finally:
        stop.set()
        writer.join()
        pair.west.client().replicaof("NO", "ONE")
    assert all(v.equal for v in verdicts), [v.differences for v in verdicts]
    assert verdicts[-1].compared > 100


def test_progress_ends_at_its_total(pair: Pair) -> None:
    pair.both("MSET", *(word for n in range(600) for word in (f"k{n}", n)))
    seen: list[tuple[int, int]] = []
    pair.verify(progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (1200, 1200)
    assert seen == sorted(seen)


def test_works_where_the_account_may_only_read(pair: Pair) -> None:
    for server in (pair.east, pair.west):
        fill(server.client())
    pair.east.client(5).set("only here", 1)
    pair.east.client().execute_command("ACL", "SETUSER", "guest", "on", ">p", "~*", "+@read", "-memory", "+select")
    job = load_job(pair.job_file(east=f"redis://guest:p@127.0.0.1:{pair.east.port}"))
    try:
        assert [d.key for d in verify(job, rounds=1).differences] == [b"only here"]
        pair.east.client().execute_command("ACL", "SETUSER", "guest", "-scan")
        with pytest.raises(SiteError, match="may not use SCAN"):
            verify(job)
    finally:
        pair.east.client().execute_command("ACL", "DELUSER", "guest")


def test_command_says_equal_and_ends_with_0(pair: Pair) -> None:
    pair.both("SET", "k", 1)
    done = CliRunner().invoke(command, [str(pair.job_file())])
    assert (done.exit_code, done.stdout) == (0, "east and west are equal: 1 keys compared.\n")


def test_command_lists_differences_and_ends_with_1(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bisync.verify.time.sleep", lambda _: None)
    pair.east.client().set(b"k\xff[red]", "a")
    pair.west.client().set(b"k\xff[red]", "b")
    done = CliRunner().invoke(command, [str(pair.job_file())])
    assert done.exit_code == 1
    assert "k\\xff[red]" in done.stdout and "1 of 1 keys are different" in done.stdout
    done = CliRunner().invoke(command, [str(pair.job_file()), "--json", "--tolerance-ms", "0"])
    assert done.exit_code == 1
    assert json.loads(done.stdout) == {
        "equal": False,
        "compared": 1,
        "different": 1,
        "differences": [{"database": 0, "key": "k\\xff[red]", "kind": "value", "source": '"a"', "target": '"b"'}],
    }


@given(st.binary(), st.binary())
def test_readable_is_printable_and_never_the_same_for_two_keys(a: bytes, b: bytes) -> None:
    assert readable(a).isprintable()
    assert (readable(a) == readable(b)) == (a == b)


def test_readable_shows_text_as_it_is() -> None:
    assert readable("Größe:1".encode()) == "Größe:1"
    assert readable(b"a\\b\x00\xff\n") == "a\\\\b\\x00\\xff\\x0a"

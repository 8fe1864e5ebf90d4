"""Undoing a conflict on real servers: what lost comes back, and nothing that was written since is touched.

Servers of whichever version is on PATH; one that knows less than Redis 7.0 is played by one with renamed commands too.
"""

import pathlib
import threading
import time
from collections.abc import Callable, Iterator

import attrs
import pytest
import redis

from bisync import undo as module
from bisync.config import Job, load_job
from bisync.core.actions import Replaced
from bisync.core.commands import FUNCTIONS
from bisync.core.restore import digest
from bisync.errors import BisyncError, SiteError
from bisync.runtime.conflict_record import ConflictRecord, Server
from bisync.runtime.store import Store
from bisync.testing.servers import LocalServer, local_servers
from bisync.undo import Undone, lines_about, undo
from tests.cli import jobs
from tests.told import sha, told

Words = tuple[object, ...]


@attrs.define
class World:
    """A job whose conflicts were settled by hand: east holds what won, west gets a copy of it."""

    job: Job
    store: Store
    east: LocalServer
    west: LocalServer
    number: int = 0

    def at(self, site: str, db: int = 0) -> "redis.Redis":
        return self.both[site].client(db)

    def write(self, site: str, *commands: Words, db: int = 0) -> None:
        with self.at(site, db) as client:
            for command in commands:
                client.execute_command(*command)

    def key(self, winner: tuple[Words, ...], loser: tuple[Words, ...], *, db: int = 0, there: int = 0) -> int:
        """A conflict over the whole key k, settled. Its id."""
        self.write("east", ("DEL", "k"), *winner, db=db)
        self.write("west", ("DEL", "k"), *loser, db=there)
        with self.at("east", db) as east, self.at("west", there) as west:
            won, won_at = east.dump("k"), expiry(east)
            value, expires = west.dump("k"), expiry(west)
            west.delete("k")
            if won is not None:
                west.restore("k", 0, won)  # type: ignore[arg-type]
            if won_at > 0:
                west.pexpireat("k", won_at)
        assert value is None or isinstance(value, bytes)
        kind = "absent" if value is None else "dump"
        expires_at_ms = expires if expires > 0 else None
        lost = Replaced("west", kind, value, expires_at_ms, len(value or b""), digest(value))
        return self.record(lost, sha(won), database=db)

    def element(self, element: tuple[str, bytes], value: bytes | None, kept: bytes | None) -> int:
        """A conflict over an element of k, which both sites hold as it won. Its id."""
        kind = "absent" if value is None else "ttl" if element[0] == "ttl" else "value"
        expires_at_ms = int(value) if kind == "ttl" and value else None
        lost = Replaced("west", kind, value, expires_at_ms, len(value or b""), sha(value))
        return self.record(lost, sha(kept), element=element)

    def record(self, lost: Replaced | None, kept: str, state: str = "settled", **changes: object) -> int:
        self.number += 1
        self.store.conflicts.save_servers("orders", self.servers())
        place = {"east": self.number, "west": self.number}
        self.store.conflicts.save("orders", [told(self.number, state, replaced=lost, kept=kept, **place, **changes)])
        return self.store.conflicts.find("orders")[-1]

    def servers(self) -> dict[str, Server]:
        """What the sites are now."""
        return {name: Server(f"127.0.0.1:{server.port}", history(server)) for name, server in self.both.items()}

    @property
    def both(self) -> dict[str, LocalServer]:
        return {"east": self.east, "west": self.west}

    def held(self, site: str = "west", db: int = 0) -> tuple[object, int]:
        """The key k: its value, and its expiry."""
        with self.at(site, db) as c:
            reads: dict[bytes, Callable[[], object]] = {
                b"none": lambda: None,
                b"string": lambda: c.get("k"),
                b"list": lambda: c.lrange("k", 0, -1),
                b"set": lambda: c.smembers("k"),
                b"hash": lambda: c.hgetall("k"),
                b"zset": lambda: c.zrange("k", 0, -1, withscores=True),
                b"stream": lambda: c.xrange("k"),
            }
            kind = c.type("k")
            assert isinstance(kind, bytes)
            return reads[kind](), expiry(c)

    def changes(self) -> int:
        """How often data was written at west."""
        with self.at("west") as west:
            return int(west.info("persistence")["rdb_changes_since_last_save"])

    def undo(self, id: int, *, force: bool = False) -> Undone:
        return undo(self.job, self.store, id, force=force)

    def refused(self, id: int, *, force: bool = False) -> str:
        """The text of the refusal. Nothing was written, and nothing noted."""
        before, events, changes = self.get(id), self.store.events("orders"), self.changes()
        with pytest.raises(BisyncError) as e:
            self.undo(id, force=force)
        assert "nothing was written" in str(e.value)
        assert self.get(id) == before and self.changes() == changes
        assert self.store.events("orders") == events
        return str(e.value)

    def get(self, id: int) -> ConflictRecord:
        record = self.store.conflicts.get("orders", id)
        assert record is not None
        return record


def expiry(client: "redis.Redis") -> int:
    """When k expires, as PEXPIRETIME says it, which servers before 7.0 lack."""
    while True:
        before, left, after = client.time(), client.pttl("k"), client.time()
        assert isinstance(left, int)
        if left < 0:
            return left
        if before[1] // 1000 == after[1] // 1000 and before[0] == after[0]:
            return int(before[0]) * 1000 + before[1] // 1000 + left


def history(server: LocalServer) -> str:
    with server.client() as client:
        return str(client.info("replication").get("master_replid") or client.info("server")["run_id"])


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[LocalServer]]:
    folder = pathlib.Path(tmp_path_factory.mktemp("undo"))
    with local_servers(folder, "east", "west") as started:
        yield started


@pytest.fixture
def world(tmp_path: pathlib.Path, servers: list[LocalServer]) -> Iterator[World]:
    east, west = servers
    for server in servers:
        with server.client() as client:
            client.execute_command("SLAVEOF", "NO", "ONE")
            client.flushall()
            if version(client) >= 7:
                client.function_flush()
    file = jobs.job_file(tmp_path, east.url, west.url)
    file.write_text(file.read_text() + "[objects]\ndatabases = { 0 = 0, 3 = 5 }\n")
    job = load_job(file)
    with Store.open(job.store) as store:
        yield World(job, store, east, west)


SOON = int(time.time() * 1000) + 3_600_000
BIG_SET = [f"m{n}" for n in range(400)]
VALUES: dict[str, tuple[Words, ...]] = {
    "string": (("SET", "k", b"text\xff"),),
    "number": (("SET", "k", "12"),),
    "list": (("RPUSH", "k", *range(600), "x" * 200),),
    "set": (("SADD", "k", *BIG_SET),),
    "hash": (("HSET", "k", *[w for n in range(200) for w in (f"f{n}", "v" * 70)]),),
    "zset": (("ZADD", "k", *[w for n in range(200) for w in (n / 7, f"m{n}")]),),
    "stream": (("XADD", "k", "1-1", "f", "v"), ("XADD", "k", "2-1", "f", "v"), ("XGROUP", "CREATE", "k", "g", "0")),
    "expiring": (("SET", "k", "v"), ("PEXPIREAT", "k", SOON)),
    "nothing": (),
}


class TestWholeKeys:
    @pytest.mark.parametrize("winner", VALUES)
    @pytest.mark.parametrize("loser", VALUES)
    def test_what_lost_comes_back_with_its_expiry(self, world: World, winner: str, loser: str) -> None:
        if winner == loser:
            return
        world.write("west", *VALUES[loser])
        expected = world.held()
        id = world.key(VALUES[winner], VALUES[loser])
        done = world.undo(id)
        assert world.held() == expected
        assert (done.site, done.other, done.written) == ("west", "east", True)
        assert world.get(id).outcome == "undone"
        [event] = world.store.events("orders")
        assert event.kind == "undone" and f"conflict {id} was undone: k, at west" == event.text

    def test_the_database_is_that_of_the_site(self, world: World) -> None:
        id = world.key((("SET", "k", "new"),), (("SET", "k", "old"),), db=3, there=5)
        world.undo(id)
        assert (world.held("west", 5)[0], world.held("west", 3)[0], world.held("west", 0)[0]) == (b"old", None, None)

    @pytest.mark.parametrize("since", ["another", None])
    def test_what_was_written_since_is_not_touched(self, world: World, since: str | None) -> None:
        id = world.key((("SET", "k", "new"),), (("SET", "k", "old"),))
        world.write("west", ("SET", "k", since) if since else ("DEL", "k"))
        text = world.refused(id)
        assert "k has changed at west since then" in text and "--force" in text
        assert world.held()[0] == (b"another" if since else None)

    @pytest.mark.parametrize("since", [("SET", "k", "another"), ("DEL", "k"), ("RPUSH", "k2", "1")])
    def test_by_force_it_is(self, world: World, since: Words) -> None:
        id = world.key((("SET", "k", "new"),), (("SET", "k", "old"),))
        world.write("west", since)
        world.undo(id, force=True)
        assert world.held()[0] == b"old"

    def test_a_key_that_was_removed_and_is_there_again_is_not_touched(self, world: World) -> None:
        id = world.key((), (("SET", "k", "old"),))
        world.write("west", ("SET", "k", "again"))
        assert "has changed" in world.refused(id)

    def test_an_equal_value_that_another_order_makes_another_dump_is_not_changed(self, world: World) -> None:
        id = world.key((("SADD", "k", *BIG_SET),), (("SET", "k", "old"),))
        with world.at("west") as west:
            payload = west.dump("k")
            assert isinstance(payload, bytes) and sha(payload) != world.get(id).kept, "else this tests nothing"
        world.undo(id)
        assert world.held()[0] == b"old"

    def test_but_one_more_element_is_a_change(self, world: World) -> None:
        id = world.key((("SADD", "k", *BIG_SET),), (("SET", "k", "old"),))
        world.write("west", ("SADD", "k", "one more"))
        assert "has changed" in world.refused(id)
        world.write("east", ("SADD", "k", "one more"))  # the sync has carried it
        assert "has changed" in world.refused(id)

    def test_a_key_too_big_for_one_dump_is_not_looked_at(self, world: World) -> None:
        world.job = attrs.evolve(world.job, conflicts=attrs.evolve(world.job.conflicts, rebuild_bytes=1 << 16))
        id = world.key((("SET", "k", "x" * 200_000),), (("SET", "k", "old"),))
        assert "too big to be compared" in world.refused(id)
        world.undo(id, force=True)
        assert world.held()[0] == b"old"

    def test_a_time_to_live_that_is_over_is_not_put_back_unasked(self, world: World) -> None:
        id = world.key((("SET", "k", "new"),), (("SET", "k", "old", "PX", 900),))
        text = world.refused(id)
        assert "the value's time to live ended at 20" in text and "--force to put it back without a time" in text
        done = world.undo(id, force=True)
        assert world.held() == (b"old", -1) and done.without_expiry

    def test_a_key_written_all_the_time_is_left_alone(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        id = world.key((("SET", "k", "new"),), (("SET", "k", "old"),))
        write = module._Unit.write

        def late(unit: module._Unit, *, without_expiry: bool) -> bool:
            world.write("west", ("SET", "k", "new"))  # the same value, yet written
            return write(unit, without_expiry=without_expiry)

        monkeypatch.setattr(module._Unit, "write", late)
        with pytest.raises(BisyncError, match="is written all the time at west"):
            world.undo(id)
        assert world.held()[0] == b"new" and world.get(id).undone_ms is None and world.store.events("orders") == []

    def test_a_write_between_the_look_and_the_transaction_is_looked_at(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        id = world.key((("SET", "k", "new"),), (("SET", "k", "old"),))
        write, late = module._Unit.write, iter([("SET", "k", "late")])

        def writes(unit: module._Unit, *, without_expiry: bool) -> bool:
            world.write("west", *late)
            return write(unit, without_expiry=without_expiry)

        monkeypatch.setattr(module._Unit, "write", writes)
        with pytest.raises(BisyncError, match="has changed at west"):
            world.undo(id)
        assert world.held()[0] == b"late" and world.get(id).undone_ms is None


def ttl(at_ms: int | None) -> Words:
    return ("PERSIST", "k") if at_ms is None else ("PEXPIREAT", "k", at_ms)


ELEMENTS = {  # the element, how it is written, its value as the log has it, and another one
    "hash": (("hash", b"f\xff"), lambda v: ("HSET", "k", b"f\xff", v), b"old\x00", b"new"),
    "set": (("set", b"m"), lambda v: ("SADD", "k", b"m"), b"1", b"1"),
    "zset": (("zset", b"m"), lambda v: ("ZADD", "k", v, b"m"), b"1.5", b"2"),
}
REMOVES: dict[str, Words] = {"hash": ("HDEL", "k", b"f\xff"), "set": ("SREM", "k", b"m"), "zset": ("ZREM", "k", b"m")}
OTHERS: dict[str, Words] = {"hash": ("HSET", "k", "x", "y"), "set": ("SADD", "k", "x"), "zset": ("ZADD", "k", 9, "x")}


class TestElements:
    @pytest.mark.parametrize("kind", ELEMENTS)
    @pytest.mark.parametrize(("lost", "won"), [(True, True), (True, False), (False, True)])
    def test_what_lost_comes_back_and_nothing_else_changes(
        self, world: World, kind: str, lost: bool, won: bool
    ) -> None:
        element, put, old, new = ELEMENTS[kind]
        if kind == "set" and lost and won:
            return
        world.write("west", OTHERS[kind], put(old) if lost else REMOVES[kind])
        expected = world.held()
        world.write("west", put(new) if won else REMOVES[kind])
        id = world.element(element, old if lost else None, new if won else None)
        assert world.undo(id).written
        assert world.held() == expected

    @pytest.mark.parametrize("kind", ELEMENTS)
    def test_what_was_written_since_is_not_touched_but_by_force(self, world: World, kind: str) -> None:
        element, put, old, new = ELEMENTS[kind]
        world.write("west", OTHERS[kind])
        id = world.element(element, None, new) if kind == "set" else world.element(element, old, new)
        if kind == "set":  # the member was added, and is gone
            assert not world.undo(id).written
            return
        world.write("west", put(b"7"))
        assert "has changed at west since then" in world.refused(id)
        world.undo(id, force=True)
        assert not world.undo(id, force=True).written, "it stands there already"

    @pytest.mark.parametrize("kind", ELEMENTS)
    def test_a_key_of_another_type_has_changed(self, world: World, kind: str) -> None:
        element, _, old, new = ELEMENTS[kind]
        id = world.element(element, old, new)
        world.write("west", ("SET", "k", "a string"))
        assert "has changed" in world.refused(id)
        with pytest.raises(SiteError, match="WRONGTYPE"):
            world.undo(id, force=True)
        assert world.get(id).undone_ms is None and world.held()[0] == b"a string"

    def test_other_elements_written_since_do_not_matter(self, world: World) -> None:
        world.write("west", ("HSET", "k", "f", "new", "g", "1"))
        id = world.element(("hash", b"f"), b"old", b"new")
        world.write("west", ("HSET", "k", "g", "2"))
        world.undo(id)
        assert world.held()[0] == {b"f": b"old", b"g": b"2"}

    @pytest.mark.parametrize(
        ("lost", "won"),
        [
            pytest.param(SOON, SOON + 9, id="a shorter one"),
            pytest.param(SOON, None, id="one that was taken away"),
            pytest.param(None, SOON, id="none at all"),
        ],
    )
    def test_a_time_to_live_comes_back(self, world: World, lost: int | None, won: int | None) -> None:
        world.write("west", ("SET", "k", "v"), ttl(won))
        text = [None if n is None else b"%d" % n for n in (lost, won)]
        world.undo(world.element(("ttl", b""), *text))
        assert world.held() == (b"v", lost or -1)

    def test_a_time_to_live_that_is_over_would_delete_the_key(self, world: World) -> None:
        world.write("west", ("SET", "k", "v"), ttl(SOON))
        id = world.element(("ttl", b""), b"1700000000000", b"%d" % SOON)
        for force in (False, True):
            assert "the key would go at once" in world.refused(id, force=force)

    @pytest.mark.parametrize("force", [False, True])
    def test_a_key_that_is_gone_has_no_time_to_live(self, world: World, force: bool) -> None:
        id = world.element(("ttl", b""), b"%d" % SOON, None)
        assert "the key is gone at west" in world.refused(id, force=force)


def version(client: "redis.Redis") -> int:
    return int(client.info("server")["redis_version"].split(".")[0])


def test_functions_come_back(world: World) -> None:
    with world.at("west") as west:
        if version(west) < 7:
            pytest.skip("a server before 7.0 has no functions")
    code = "#!lua name={}\nredis.register_function('{}', function() return 1 end)"
    with world.at("west") as west:
        dumps = []
        for name in ("old", "new"):
            west.function_flush()
            west.function_load(code.format(name, "f"))
            dumps.append(west.execute_command("FUNCTION", "DUMP"))
        old, new = dumps
        lost, place = Replaced("west", "dump", old, None, len(old), sha(old)), dict(zip(("database", "key"), FUNCTIONS))
        world.undo(world.record(lost, sha(new), **place))
        assert west.execute_command("FUNCTION", "DUMP") == old
        west.function_flush()
        assert "(all functions) has changed at west" in world.refused(world.record(lost, sha(new), **place))


class TestRefusing:
    @pytest.fixture
    def id(self, world: World) -> int:
        return world.key((("SET", "k", "new"),), (("SET", "k", "old"),))

    def test_a_number_that_is_none(self, world: World, id: int) -> None:
        with pytest.raises(BisyncError, match="has no conflict 999.*Next: `bisync conflicts orders.toml`"):
            world.undo(999)

    @pytest.mark.parametrize("force", [False, True])
    def test_one_that_is_open(self, world: World, force: bool) -> None:
        id = world.record(None, "", "open")
        assert "it is not settled yet" in world.refused(id, force=force)

    @pytest.mark.parametrize("force", [False, True])
    def test_one_that_replaced_nothing(self, world: World, force: bool) -> None:
        id = world.record(None, "")
        assert "no value that was replaced" in world.refused(id, force=force)

    @pytest.mark.parametrize("force", [False, True])
    def test_one_whose_value_was_too_big_to_keep(self, world: World, force: bool) -> None:
        id = world.record(Replaced("west", "dump", None, None, 1 << 20, "abcd"), sha(b"x"))
        text = world.refused(id, force=force)
        assert "1,048,576 bytes" in text and "SHA-256 abcd" in text and "value_bytes" in text

    def test_one_that_was_undone_before(self, world: World, id: int) -> None:
        world.undo(id)
        assert "it was undone before, at 20" in world.refused(id)
        world.write("west", ("SET", "k", "new"))
        assert "it was undone before" in world.refused(id)
        world.undo(id, force=True)
        assert world.held()[0] == b"old"

    def test_one_of_a_site_that_the_job_has_no_more(self, world: World) -> None:
        id = world.record(Replaced("north", "absent", None, None, 0, ""), "")
        assert "no site 'north'" in world.refused(id)

    def test_one_whose_record_was_not_noted_is_done_once_only(self, world: World, id: int) -> None:
        world.write("west", ("SET", "k", "old"))  # as after a crash between the two
        changes = world.changes()
        assert not world.undo(id).written
        assert world.changes() == changes and world.get(id).outcome == "undone"

    def test_a_site_that_is_away(self, world: World, id: int, tmp_path: pathlib.Path) -> None:
        world.job = load_job(jobs.job_file(tmp_path, world.east.url))
        with pytest.raises(SiteError, match="west: .* refused the connection"):
            world.undo(id)
        assert world.get(id).undone_ms is None

    def test_a_site_that_takes_no_writes(self, world: World, id: int) -> None:
        world.write("west", ("SLAVEOF", "127.0.0.1", "1"))
        with pytest.raises(SiteError, match="READONLY"):
            world.undo(id)
        assert world.get(id).undone_ms is None

    def test_an_account_without_the_right(self, world: World, id: int, tmp_path: pathlib.Path) -> None:
        with world.at("west") as west:
            if version(west) < 6:
                pytest.skip("a server before 6.0 has no accounts")
        world.write("west", ("ACL", "SETUSER", "clerk", "on", ">secret-word", "~*", "+@all", "-restore"))
        url = world.west.url.replace("//", "//clerk:secret-word@")
        world.job = load_job(jobs.job_file(tmp_path, world.east.url, url))
        with pytest.raises(SiteError, match="may not use RESTORE here.*SETUSER clerk .restore") as e:
            world.undo(id)
        assert "secret-word" not in str(e.value) and world.get(id).undone_ms is None


def test_only_one_of_two_that_undo_at_once_writes(world: World) -> None:
    id = world.key((("SET", "k", "new"),), (("SET", "k", "old"),))
    changes = world.changes()
    start, results = threading.Barrier(2), list[str]()

    def work() -> None:
        with Store.open(world.job.store) as store:
            start.wait()
            try:
                results.append("written" if undo(world.job, store, id).written else "there already")
            except BisyncError as e:
                results.append("refused" if "undone before" in str(e) else str(e))

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results)[-1] == "written" and results.count("written") == 1, results
    assert world.held()[0] == b"old" and world.changes() > changes


class TestWords:
    def lines(self, running: bool = True, **changes: object) -> str:
        record = attrs.evolve(
            ConflictRecord.of(told(1, "settled", replaced=Replaced("west", "dump", b"x", 5, 1, ""))),
            **changes,  # type: ignore[arg-type]
        )
        return " ".join(lines_about(Undone(record, "west", "east", True, False), running=running))

    def test_say_what_happened_and_what_will(self) -> None:
        assert (
            self.lines()
            == "Conflict 0 is undone: at west, k holds again what lost there. The sync carries this to east."
        )
        assert "No engine is running: the next `bisync run` carries this to east." in self.lines(running=False)

    def test_say_when_something_is_removed_or_stood_there(self) -> None:
        assert "k is removed again" in self.lines(replaced=Replaced("west", "absent", None, None, 0, ""))
        record = ConflictRecord.of(told(1, "settled", replaced=Replaced("west", "dump", b"x", 5, 1, "")))
        [line] = lines_about(Undone(record, "west", "east", False, False), running=True)
        assert line == "Conflict 0: west holds already what lost there. Nothing was written."
        lines = list(lines_about(Undone(record, "west", "east", True, True), running=True))
        assert "it has none now" in lines[1]

"""Undoing a conflict: at the right servers only, at servers that know little, and of fields with a time to live."""

import contextlib
import pathlib
import time
from collections.abc import Iterator

import attrs
import pytest
import redis

from bisync.config import load_job
from bisync.core.actions import Replaced
from bisync.core.tag import tag_key
from bisync.errors import BisyncError
from bisync.runtime.conflict_record import Server
from bisync.runtime.store import Store
from bisync.testing.servers import LocalServer, local_servers
from bisync.undo import lines_about
from tests.cli import jobs
from tests.test_undo import World, expiry, servers, world
from tests.told import sha

__all__ = ["servers", "world"]

OLD, NEW = (("SET", "k", "old"),), (("SET", "k", "new"),)
LATER_MS = 4_000_000_000_000


class TestServers:
    """The values of one deployment do not go to another."""

    def known(self, world: World, **changes: Server) -> None:
        """What the log knows of the sites."""
        world.store.conflicts.save_servers("orders", {**world.servers(), **changes})

    @pytest.mark.parametrize("site", ["east", "west"])
    @pytest.mark.parametrize("force", [False, True])
    def test_of_another_address_and_history_are_refused(self, world: World, site: str, force: bool) -> None:
        id = world.key(NEW, OLD)
        self.known(world, **{site: Server("db.example:6379", "f" * 40)})
        text = world.refused(id, force=force)
        here = world.servers()[site].address
        assert f"{site} was db.example:6379 when it was settled, and the job file names {here}, another server" in text
        assert world.held()[0] == b"new"

    def test_of_the_same_history_may_have_moved(self, world: World) -> None:
        id = world.key(NEW, OLD)
        self.known(world, **{s: Server("db.example:6379", known.history) for s, known in world.servers().items()})
        assert world.undo(id).written

    def test_that_changed_places_are_refused(self, world: World) -> None:
        id = world.key(NEW, OLD)
        here = world.servers()
        self.known(world, east=here["west"], west=here["east"])
        assert "another server" in world.refused(id)

    def test_that_were_restarted_hold_the_tag_of_the_job(self, world: World) -> None:
        id = world.key(NEW, OLD)
        self.known(world, west=Server(world.servers()["west"].address, "f" * 40))
        text = world.refused(id)
        assert "has begun a new history since then, and holds no tag of this job" in text and "`bisync run`" in text
        world.write("west", ("SET", tag_key("orders", "forward"), "a tag"))
        assert world.undo(id).written

    def test_of_which_nothing_is_known_are_left_to_the_person(self, world: World) -> None:
        id = world.key(NEW, OLD)
        world.store._run("UPDATE conflicts SET servers = NULL")
        assert "the log does not know which server west was then" in world.refused(id)
        assert world.undo(id, force=True).written

    def test_a_site_that_is_not_written_may_be_away(self, world: World, tmp_path: pathlib.Path) -> None:
        id = world.key(NEW, OLD)
        away = Server("127.0.0.1:1", "f" * 40)
        self.known(world, east=away)
        world.job = load_job(jobs.job_file(tmp_path, "redis://127.0.0.1:1", world.west.url))
        assert world.undo(id).written


# -- servers that know less


@pytest.fixture(scope="module")
def old_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[LocalServer]]:
    """As before Redis 7.0 and 4.0: commands that came later are unknown there, or the server is so old by itself."""
    renamed = [word for name in ("PEXPIRETIME", "UNLINK") for word in ("--rename-command", name, "")]
    folder = pathlib.Path(tmp_path_factory.mktemp("old"))
    with contextlib.ExitStack() as stack:
        try:
            yield stack.enter_context(local_servers(folder, "east", "west", options=tuple(renamed)))
        except BisyncError:
            yield stack.enter_context(local_servers(folder, "east", "west"))


@pytest.fixture
def old_world(tmp_path: pathlib.Path, old_servers: list[LocalServer]) -> Iterator[World]:
    for server in old_servers:
        with server.client() as client:
            client.flushall()
    job = load_job(jobs.job_file(tmp_path, *(server.url for server in old_servers)))
    with Store.open(job.store) as store:
        yield World(job, store, *old_servers)


class TestOldServers:
    def test_a_key_comes_back_with_its_time_to_live(self, old_world: World) -> None:
        id = old_world.key(NEW, (*OLD, ("PEXPIREAT", "k", LATER_MS)))
        done = old_world.undo(id)
        assert done.written and not done.without_expiry
        assert old_world.held() == (b"old", LATER_MS)
        assert not old_world.undo(id, force=True).written, "it stands there already, time to live and all"

    def test_a_key_is_removed_again(self, old_world: World) -> None:
        old_world.undo(old_world.key(NEW, ()))
        assert old_world.held() == (None, -2)

    @pytest.mark.parametrize("won", [LATER_MS + 7, None])
    def test_a_time_to_live_comes_back(self, old_world: World, won: int | None) -> None:
        old_world.write("west", ("SET", "k", "v"), *([("PEXPIREAT", "k", won)] if won else []))
        kept = None if won is None else b"%d" % won
        old_world.undo(old_world.element(("ttl", b""), b"%d" % LATER_MS, kept))
        assert old_world.held() == (b"v", LATER_MS)

    def test_a_time_to_live_that_was_changed_since_is_not_touched(self, old_world: World) -> None:
        old_world.write("west", ("SET", "k", "v"), ("PEXPIREAT", "k", LATER_MS + 1))
        id = old_world.element(("ttl", b""), None, b"%d" % LATER_MS)
        assert "has changed" in old_world.refused(id)


# -- fields with a time to live


def knows_fields(client: "redis.Redis") -> bool:
    try:
        client.execute_command("HPEXPIRETIME", "none", "FIELDS", 1, "f")
    except redis.ResponseError:
        return False
    return True


def field(world: World, expires_at_ms: int | None) -> int:
    """A conflict over the field f of k, which is "new" now and was "old"."""
    lost = Replaced("west", "value", b"old", expires_at_ms, 3, sha(b"old"))
    world.write("west", ("HSET", "k", "f", "new"))
    return world.record(lost, sha(b"new"), element=("hash", b"f"))


class TestFields:
    @pytest.fixture
    def mortal(self, world: World) -> World:
        with world.at("west") as west:
            if not knows_fields(west):
                pytest.skip("this server's fields have no times to live (they came with Redis 7.4)")
        return world

    def expires(self, world: World) -> object:
        with world.at("west") as west:
            return west.execute_command("HPEXPIRETIME", "k", "FIELDS", 1, "f")

    def test_come_back_with_it(self, mortal: World) -> None:
        id = field(mortal, LATER_MS)
        done = mortal.undo(id)
        assert done.written and not done.without_expiry
        assert mortal.held()[0] == {b"f": b"old"} and self.expires(mortal) == [LATER_MS]
        assert not mortal.undo(id, force=True).written, "it stands there already"

    def test_that_had_none_come_back_without_one(self, mortal: World) -> None:
        id = field(mortal, None)
        mortal.write("west", ("HPEXPIREAT", "k", LATER_MS, "FIELDS", 1, "f"))
        assert mortal.undo(id).written
        assert self.expires(mortal) == [-1]

    def test_of_the_same_value_with_another_one_are_not_there_already(self, mortal: World) -> None:
        id = field(mortal, LATER_MS)
        mortal.write("west", ("HSET", "k", "f", "old"))
        assert mortal.undo(id, force=True).written and self.expires(mortal) == [LATER_MS]

    def test_where_the_server_knows_none_they_come_back_without_and_it_is_said(self, world: World) -> None:
        with world.at("west") as west:
            if knows_fields(west):
                pytest.skip("this server's fields have times to live")
        done = world.undo(field(world, LATER_MS))
        assert done.written and done.without_expiry and world.held()[0] == {b"f": b"old"}
        [_, line, _] = lines_about(done, running=True)
        assert line.startswith("Its time to live until 2096-") and line.endswith(
            "could not be put back: west takes none for a field: it has none now."
        )

    def test_whose_time_is_over_come_back_only_by_force(self, world: World) -> None:
        id = field(world, int(time.time() * 1000) - 5_000)
        assert "the value's time to live ended at" in world.refused(id)
        done = world.undo(id, force=True)
        assert (
            done.without_expiry
            and world.held()[0] == {b"f": b"old"}
            and "ended at" in list(lines_about(done, running=True))[1]
        )


def test_a_time_to_live_that_cannot_be_read_to_the_ms_is_an_error(
    old_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bisync import undo as module
    from bisync.core.restore import Ask, NotNow

    def never(replies: object) -> int:
        raise NotNow

    monkeypatch.setattr(module, "expiry", lambda key, able: Ask([], never))
    id = old_world.key(NEW, OLD)
    with pytest.raises(BisyncError, match="time to live at west could not be read to the ms.*Next: try again"):
        old_world.undo(id)
    with old_world.at("west") as west:
        assert expiry(west) == -1 and attrs.evolve(old_world.get(id)).undone_ms is None

"""`bisync wait`: on hand-made stores, and on real servers that say where their streams end."""

import json
import pathlib
import re
from collections.abc import Callable, Iterator

import pytest
from click.testing import CliRunner, Result

from bisync.cli import wait as module
from bisync.cli.wait import Outcome, command, wait_drained, wait_for_state
from bisync.config import load_job
from bisync.core.states import RUNNING, STATES
from bisync.core.tag import Tag
from bisync.errors import SiteError
from bisync.runtime.store import Store
from bisync.status import Drained, OpenUnit
from bisync.testing.servers import LocalServer, local_servers
from tests.cli import jobs

OTHER = "f" * 40  # a replication id that no server here has


def wait(file: pathlib.Path, *options: str) -> Result:
    return CliRunner().invoke(command, [str(file), *options], catch_exceptions=False)


def in_turn(*deeds: Callable[[], object]) -> Callable[[], None]:
    """A hook that does one thing at each look at the store."""
    left = list(deeds)

    def each() -> None:
        if left:
            left.pop(0)()

    return each


def nothing() -> None:
    """Let one look pass."""


@pytest.mark.parametrize("options", [[], ["--state", "synchronizing", "--drained"], ["--state", "happy"]])
def test_wants_to_know_what_to_wait_for(tmp_path: pathlib.Path, options: list[str]) -> None:
    assert wait(jobs.job_file(tmp_path), *options).exit_code == 2


class TestState:
    @pytest.mark.parametrize("state", STATES)
    def test_is_reached_at_once_when_it_is_so(self, tmp_path: pathlib.Path, state: str) -> None:
        file = jobs.job_file(tmp_path)
        jobs.save(file, jobs.report(state=state))
        done = wait(file, "--state", state, "--timeout", "0")
        assert (done.exit_code, done.output) == (0, "")

    @pytest.mark.parametrize("state", sorted(RUNNING))
    def test_of_a_running_engine_is_not_believed_of_a_dead_one(self, tmp_path: pathlib.Path, state: str) -> None:
        file = jobs.job_file(tmp_path)
        jobs.save(file, jobs.report(state=state, pid=jobs.dead_pid()))
        done = wait(file, "--state", state, "--timeout", "0")
        assert done.exit_code == 1
        assert "its state is suspended (no engine is running" in done.stderr

    def test_waits_for_an_engine_that_is_only_starting(self, tmp_path: pathlib.Path) -> None:
        file = jobs.job_file(tmp_path)
        starting = in_turn(
            nothing,  # no store yet
            lambda: Store.open(load_job(file).store).close(),
            lambda: jobs.save(file, jobs.report(state="prechecking")),
            lambda: jobs.save(file, jobs.report(state="synchronizing")),
        )
        outcome = wait_for_state(load_job(file), "synchronizing", 10, starting)
        assert outcome.reached and not outcome.missing and 0.2 < outcome.waited_s < 10

    def test_waits_on_after_a_failure_for_someone_to_start_it_again(self, tmp_path: pathlib.Path) -> None:
        file = jobs.job_file(tmp_path)
        again = in_turn(
            lambda: jobs.save(file, jobs.report(state="failed", pid=jobs.dead_pid())),
            nothing,
            lambda: jobs.save(file, jobs.report()),
        )
        assert wait_for_state(load_job(file), "synchronizing", 10, again).reached

    def test_says_what_is_missing_when_the_time_is_up(self, tmp_path: pathlib.Path) -> None:
        file = jobs.job_file(tmp_path)
        jobs.save(file, jobs.report(state="precheck-failed", reason="west is not empty"))
        done = wait(file, "--state", "synchronizing", "--timeout", "0.15")
        assert (done.exit_code, done.stdout) == (1, "")
        said = "orders is not synchronizing after 0.15 s: its state is precheck-failed (west is not empty)\n"
        assert done.stderr == said

    def test_json_says_the_same(self, tmp_path: pathlib.Path) -> None:
        file = jobs.job_file(tmp_path)
        done = wait(file, "--state", "synchronizing", "--timeout", "0.15", "--json")
        document = json.loads(done.stdout)
        assert done.exit_code == 1 and 0.15 <= document.pop("waited_s") < 5
        assert document == {"reached": False, "missing": ["its state is not-started"]}
        jobs.save(file, jobs.report())
        done = wait(file, "--state", "synchronizing", "--json")
        document = json.loads(done.stdout)
        assert (done.exit_code, document["reached"], document["missing"]) == (0, True, [])

    def test_gives_up_when_the_caller_does(self, tmp_path: pathlib.Path) -> None:
        def enough() -> None:
            raise InterruptedError

        with pytest.raises(InterruptedError):
            wait_for_state(load_job(jobs.job_file(tmp_path)), "synchronizing", 10, enough)


@pytest.fixture
def sites(tmp_path: pathlib.Path) -> Iterator[list[LocalServer]]:
    with local_servers(tmp_path, "east", "west") as both:
        yield both


def end(server: LocalServer, behind: int = 0) -> tuple[str, int]:
    """Where its stream ends, less some bytes."""
    info = server.client().info("replication")
    return info["master_replid"], info["master_repl_offset"] - behind


class TestDrained:
    def drained(
        self, sites: list[LocalServer], tmp_path: pathlib.Path, timeout_s: float, *deeds: Callable[[], object]
    ) -> Outcome:
        file = jobs.job_file(tmp_path, sites[0].url, sites[1].url)
        return wait_drained(load_job(file), timeout_s, in_turn(*deeds))

    def engine_at(
        self, tmp_path: pathlib.Path, east: tuple[str, int], west: tuple[str, int], **changes: object
    ) -> Callable[[], object]:
        """An engine that has applied this much of each site."""
        return lambda: jobs.save(
            tmp_path / "orders.toml", jobs.report(drained=jobs.at(east=east, west=west), **changes)
        )

    def test_when_all_that_was_written_is_applied(self, sites: list[LocalServer], tmp_path: pathlib.Path) -> None:
        east, west = map(end, sites)
        outcome = self.drained(
            *(sites, tmp_path, 10, nothing),
            self.engine_at(tmp_path, east, (west[0], west[1] - 1)),
            self.engine_at(tmp_path, east, west, conflicts_open=1),
            self.engine_at(tmp_path, east, west),
        )
        assert outcome.reached and outcome.waited_s > 0.2

    @pytest.mark.parametrize("late", [0, 1])
    def test_not_while_a_byte_is_missing(self, sites: list[LocalServer], tmp_path: pathlib.Path, late: int) -> None:
        ends = [end(s, behind=n == late) for n, s in enumerate(sites)]
        outcome = self.drained(sites, tmp_path, 0.3, self.engine_at(tmp_path, *ends))
        assert not outcome.reached
        (text,) = outcome.missing
        assert text.startswith(f"{('east', 'west')[late]}: 1 bytes of its writes are not applied")

    def test_not_without_an_engine_which_is_said_with_the_state(
        self, sites: list[LocalServer], tmp_path: pathlib.Path
    ) -> None:
        engine = self.engine_at(tmp_path, *map(end, sites), pid=jobs.dead_pid(), state="failed", reason="a gap")
        outcome = self.drained(sites, tmp_path, 0.3, engine)
        assert outcome.missing == ("no engine is running", "its state is failed (a gap)")

    def test_not_while_arbitrations_are_open_which_are_named(
        self, sites: list[LocalServer], tmp_path: pathlib.Path
    ) -> None:
        units = (OpenUnit(0, "k", None, "west: NOPERM", 0), OpenUnit(0, "h", ("hash", "f"), "", 0))
        engine = self.engine_at(tmp_path, *map(end, sites), conflicts_open=8, open_units=units)
        outcome = self.drained(sites, tmp_path, 0.1, engine)
        named = "'k' in database 0 (west: NOPERM), field 'f' of 'h' in database 0"
        assert outcome.missing == (f"8 arbitrations are open: {named} and 6 more",)

    def test_writes_after_the_call_do_not_count(
        self, sites: list[LocalServer], tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "ASK_AGAIN_S", 0)
        file = jobs.job_file(tmp_path, east=sites[0].url, topology="one-way")
        sites[1].client().replicaof("127.0.0.1", sites[0].port)  # a stream is counted only where someone reads it
        sites[0].client().set("k", 1)
        sites[0].client().wait(1, 10_000)
        before = end(sites[0])
        engine = in_turn(
            nothing,
            lambda: sites[0].client().set("k", 2),
            lambda: jobs.save(file, jobs.report(drained=jobs.at(east=before))),
        )
        assert wait_drained(load_job(file), 10, engine).reached
        assert end(sites[0])[1] > before[1]

    def test_a_site_that_starts_a_new_history_is_asked_again(
        self, sites: list[LocalServer], tmp_path: pathlib.Path
    ) -> None:
        west = end(sites[1])

        def restart() -> None:
            sites[0].stop()
            sites[0].start()
            self.engine_at(tmp_path, end(sites[0]), west)()

        old = (end(sites[0])[0], -1)  # the old history is never reached
        outcome = self.drained(sites, tmp_path, 20, self.engine_at(tmp_path, old, west), restart)
        assert outcome.reached

    def test_an_engine_that_follows_an_unknown_history_is_not_believed(
        self, sites: list[LocalServer], tmp_path: pathlib.Path
    ) -> None:
        outcome = self.drained(sites, tmp_path, 1.2, self.engine_at(tmp_path, (OTHER, 1 << 40), end(sites[1])))
        assert not outcome.reached and "history ffffffff.." in outcome.missing[0]

    def test_a_site_that_is_away_is_waited_for(self, sites: list[LocalServer], tmp_path: pathlib.Path) -> None:
        def back() -> None:
            sites[0].start()
            self.engine_at(tmp_path, *map(end, sites))()

        sites[0].stop()
        assert self.drained(sites, tmp_path, 20, nothing, back).reached

    def test_a_site_that_stays_away_is_named(self, sites: list[LocalServer], tmp_path: pathlib.Path) -> None:
        places = [end(s) for s in sites]
        sites[0].stop()
        outcome = self.drained(sites, tmp_path, 0.3, self.engine_at(tmp_path, *places))
        assert [m for m in outcome.missing if m.startswith("east:")] and outcome.waited_s < 5

    def test_a_site_that_does_not_answer_does_not_hold_it_up(
        self, sites: list[LocalServer], tmp_path: pathlib.Path
    ) -> None:
        places = [end(s) for s in sites]
        sites[1].pause()
        outcome = self.drained(sites, tmp_path, 0.5, self.engine_at(tmp_path, *places))
        assert not outcome.reached and outcome.waited_s < 3

    def test_a_site_that_refuses_ends_the_waiting(self, sites: list[LocalServer], tmp_path: pathlib.Path) -> None:
        sites[1].client().config_set("requirepass", "open-sesame")
        with pytest.raises(SiteError, match="west: .* refused the connection without a password"):
            self.drained(sites, tmp_path, 20)

    def test_a_one_way_job_asks_only_its_source_how_far_it_is(
        self, sites: list[LocalServer], tmp_path: pathlib.Path
    ) -> None:
        file = jobs.job_file(tmp_path, east=sites[0].url, topology="one-way")
        jobs.save(file, jobs.report(drained=jobs.at(east=end(sites[0]))))
        done = wait(file, "--drained", "--timeout", "0")
        assert (done.exit_code, done.output) == (0, "")


FORWARD, REVERSE = "bisync:orders:tag:forward", "bisync:orders:tag:reverse"


def tag(applied: int) -> bytes:
    return Tag("orders", 3, "e1", (1, 1, applied)).encode()


class TestTags:
    """What the engine says is applied must still be held: it notices later that a site came back with older data."""

    def missing(
        self, sites: list[LocalServer], tmp_path: pathlib.Path, topology: str = "bidirectional"
    ) -> tuple[str, ...]:
        """What is missing where all of both streams is applied, and the engine has committed these tags."""
        file = jobs.job_file(tmp_path, sites[0].url, sites[1].url, topology)
        clocks = {"east": (1, 1, 700), "west": (1, 1, 900)}
        drained = {x: Drained(*end(server), clocks[x]) for x, server in zip(("east", "west"), sites)}
        job = jobs.save(file, jobs.report(drained=drained))
        return wait_drained(job, 0).missing

    def test_that_are_held_or_are_newer_are_well(self, sites: list[LocalServer], tmp_path: pathlib.Path) -> None:
        sites[1].client().set(FORWARD, tag(700))
        sites[0].client().set(REVERSE, tag(901))
        assert self.missing(sites, tmp_path) == ()

    @pytest.mark.parametrize("topology", ["one-way", "bidirectional"])
    @pytest.mark.parametrize(
        ("held", "said"),
        [
            (tag(699), "is older than .*: the site came back with older data"),
            (None, "is gone, and the engine has not noticed yet"),
            (b"x", "was overwritten: b'x' is not a bisync tag"),
        ],
    )
    def test_that_are_not_those_of_the_engine_are_missing(
        self, sites: list[LocalServer], tmp_path: pathlib.Path, topology: str, held: bytes | None, said: str
    ) -> None:
        sites[0].client().set(REVERSE, tag(900))
        if held is not None:
            sites[1].client().set(FORWARD, held)
        (text,) = self.missing(sites, tmp_path, topology)
        assert re.match(f"west: the tag {FORWARD} {said}", text), text

    def test_of_the_source_count_in_a_job_of_two_ways(self, sites: list[LocalServer], tmp_path: pathlib.Path) -> None:
        sites[1].client().set(FORWARD, tag(700))
        (text,) = self.missing(sites, tmp_path)
        assert text.startswith(f"east: the tag {REVERSE} is gone")
        assert self.missing(sites, tmp_path, "one-way") == ()

    def test_that_are_no_strings_end_the_waiting(self, sites: list[LocalServer], tmp_path: pathlib.Path) -> None:
        sites[1].client().rpush(FORWARD, 1)
        with pytest.raises(SiteError, match="west: .*WRONGTYPE"):
            self.missing(sites, tmp_path)

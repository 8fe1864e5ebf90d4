"""The status document: what a job is doing, told from the store."""

import json
import os
import pathlib
import re
import subprocess
import sys

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bisync.core.states import RUNNING, STATES
from bisync.errors import StoreError
from bisync.runtime.store import Store
from bisync.status import (
    KINDS,
    NAMED,
    REPORT_AGE_MS_MAX,
    ChannelReport,
    Drained,
    LimitsReport,
    OpenUnit,
    Report,
    missing_for_drain,
    read_report,
    read_status,
    time_text,
    unit_name,
)

NOW = 1_700_000_000_123  # ms since 1970
NOW_TEXT = "2023-11-14T22:13:20.123Z"
A, B = "a" * 40, "b" * 40  # replication ids
NOT_CHECKING = {"target_keys_checked": 0, "target_keys_total": None}


@attrs.frozen
class Job:
    """As much of a job as the status needs."""

    store: pathlib.Path
    name: str = "orders"
    topology: str = "bidirectional"


@pytest.fixture
def job(tmp_path: pathlib.Path) -> Job:
    return Job(tmp_path / "orders.db")


@pytest.fixture(scope="module")
def dead_pid() -> int:
    """The id of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def report(**changes: object) -> Report:
    """A report of an engine that lives (this process) and synchronises."""
    follows = ChannelReport("synchronizing", 3, 120, 1500.5, 90_000.0, 7_000, 10, 10, 4_096, 2)
    back = attrs.evolve(follows, lag_ms=None, keys_done=0, keys_total=None, bytes_done=0)
    values: dict[str, object] = {
        **{"state": "synchronizing", "reason": "", "epoch": 3, "pid": os.getpid(), "since_ms": NOW - 60_000},
        **{"channels": {"forward": follows, "reverse": back}, "conflicts_total": 5, "conflicts_open": 1},
        **{"drained": {"east": Drained(A, 900), "west": Drained(B, 50)}, "quarantined": 0},
    }
    return Report(**{**values, **changes})  # type: ignore[arg-type]


def save(job: Job, saved: Report, at_ms: int = NOW - 200) -> None:
    """What the engine does."""
    with Store.open(job.store) as store:
        store.save_report(job.name, saved.to_dict(), at_ms)


class TestDocument:
    def test_of_a_running_job_has_exactly_the_promised_shape(self, job: Job) -> None:
        save(job, report())
        with Store.open(job.store) as store:
            store.add_event("orders", NOW, "info", "engine", "engine 3 has taken the job")
        document = read_status(job, NOW)
        moving = {"lag_bytes": 120, "ops_per_s": 1500.5, "bytes_per_s": 90_000.0, "applied_ops": 7_000}
        rates: dict[str, object] = {**moving, "pending": 2, "limits": attrs.asdict(LimitsReport())}
        assert document == {
            "job": "orders",
            "state": "synchronizing",
            "reason": "",
            "topology": "bidirectional",
            "channels": {
                "forward": {
                    **{"state": "synchronizing", "lag_ms": 3, **rates},
                    "full_copy": {"keys_done": 10, "keys_total": 10, "bytes_done": 4_096, **NOT_CHECKING},
                },
                "reverse": {
                    **{"state": "synchronizing", "lag_ms": None, **rates},
                    "full_copy": {"keys_done": 0, "keys_total": None, "bytes_done": 0, **NOT_CHECKING},
                },
            },
            "conflicts": {
                **{"total": 5, "open": 1, "by_kind": dict.fromkeys(KINDS, 0)},
                **{"unsettled_total": 0, "unsettled": [], "unrecorded": 0, "store_failing": ""},
            },
            "engine": {"epoch": 3, "pid": os.getpid(), "since": time_text(NOW - 60_000)},
            "events": [
                {"time": NOW_TEXT, "level": "info", "kind": "engine", "text": "engine 3 has taken the job"},
            ],
        }
        assert json.loads(json.dumps(document, allow_nan=False)) == document

    def test_of_a_one_way_job_has_the_forward_channel_only(self, job: Job) -> None:
        save(job, report())
        assert list(read_status(attrs.evolve(job, topology="one-way"), NOW)["channels"]) == ["forward"]

    @pytest.mark.parametrize("there_is", ["nothing", "no folder", "an empty file", "another job", "no report"])
    def test_without_a_report_the_job_is_not_started(self, job: Job, there_is: str) -> None:
        if there_is == "no folder":
            job = attrs.evolve(job, store=job.store.parent / "nowhere" / "orders.db")
        elif there_is == "an empty file":
            job.store.touch()
        elif there_is == "another job":
            save(attrs.evolve(job, name="stock"), report())
        elif there_is == "no report":
            Store.open(job.store).close()
        before = sorted(job.store.parent.iterdir()) if job.store.parent.exists() else None
        document = read_status(job, NOW)
        assert (document["state"], document["reason"], document["events"]) == ("not-started", "", [])
        assert document["engine"] == {"epoch": None, "pid": None, "since": None}
        assert document["channels"]["reverse"]["state"] == "not-started"
        assert read_report(job, NOW) is None
        assert before == (sorted(job.store.parent.iterdir()) if before is not None else None), "it made no files"

    def test_has_the_same_keys_with_and_without_a_report(self, job: Job) -> None:
        def keys(value: object) -> object:
            return {k: keys(v) for k, v in value.items()} if isinstance(value, dict) else None

        before = keys(read_status(job, NOW))
        save(job, report())
        assert keys(read_status(job, NOW)) == before

    def test_a_store_that_is_none_is_an_error(self, job: Job) -> None:
        job.store.write_text("x")
        with pytest.raises(StoreError, match="is not a store of bisync"):
            read_status(job, NOW)

    def test_a_folder_in_its_place_is_an_error(self, job: Job) -> None:
        job.store.mkdir()
        with pytest.raises(StoreError, match="is a folder"):
            read_status(job, NOW)

    def test_shows_the_last_few_events(self, job: Job) -> None:
        with Store.open(job.store) as store:
            for n in range(30):
                store.add_event("orders", NOW, "info", "k", str(n))
        assert [e["text"] for e in read_status(job, NOW)["events"]] == [str(n) for n in range(20, 30)]


class TestEngineGone:
    @pytest.mark.parametrize("state", STATES)
    @pytest.mark.parametrize("how", ["dead", "silent"])
    def test_a_state_that_needs_an_engine_is_shown_as_suspended(
        self, job: Job, dead_pid: int, state: str, how: str
    ) -> None:
        at = NOW - 200 if how == "dead" else NOW - REPORT_AGE_MS_MAX - 1
        limits = LimitsReport(100, 0, 99.0, 9_000.0, 0.5)
        channels = {"forward": ChannelReport(state, 3, 120, 9.0, 9.0, 7_000, 10, 20, 30, 0, limits, 40, 50)}
        pid = dead_pid if how == "dead" else os.getpid()
        save(job, report(state=state, reason="as it was", pid=pid, channels=channels), at)
        document = read_status(job, NOW)
        expected = ("suspended", f"no engine is running (last seen {time_text(at)})")
        if how == "silent":
            said = f"the engine (process {pid}) has said nothing since {time_text(at)}"
            expected = ("suspended", f"{said}; it hangs or cannot write the store: see its log")
        assert (document["state"], document["reason"]) == (expected if state in RUNNING else (state, "as it was"))
        assert document["engine"] == {"epoch": 3, "pid": None, "since": time_text(NOW - 60_000)}
        assert document["channels"]["forward"] == {
            "state": "suspended" if state in RUNNING else state,
            **{"lag_ms": None, "lag_bytes": None, "ops_per_s": 0.0, "bytes_per_s": 0.0, "applied_ops": 7_000},
            **{"pending": 0, "limits": attrs.asdict(LimitsReport(100))},
            "full_copy": {
                **{"keys_done": 10, "keys_total": 20, "bytes_done": 30},
                **{"target_keys_checked": 40, "target_keys_total": 50},
            },
        }
        assert read_report(job, NOW) is None

    @pytest.mark.parametrize("state", STATES)
    def test_with_a_live_engine_every_state_is_shown_as_it_is(self, job: Job, state: str) -> None:
        saved = report(state=state, reason="why")
        save(job, saved, NOW - REPORT_AGE_MS_MAX)
        document = read_status(job, NOW)
        assert (document["state"], document["reason"], document["engine"]["pid"]) == (state, "why", os.getpid())
        assert read_report(job, NOW) == saved

    @pytest.mark.parametrize("pid", [0, -1, 2**40, 2**70])
    def test_a_process_id_that_is_none_is_a_dead_engine(self, job: Job, pid: int) -> None:
        save(job, report(pid=pid))
        assert read_status(job, NOW)["state"] == "suspended"

    def test_another_users_engine_is_alive(self, job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
        def denied(pid: int, signal: int) -> None:
            raise PermissionError

        monkeypatch.setattr(os, "kill", denied)
        save(job, report())
        assert read_status(job, NOW)["engine"]["pid"] == os.getpid()


class TestHistory:
    """The engine notes a change of state in the history first; it may die before the report says so too."""

    def test_a_newer_change_of_state_counts_more_than_the_report(self, job: Job, dead_pid: int) -> None:
        save(job, report(pid=dead_pid), NOW - 200)
        with Store.open(job.store) as store:
            store.enter_state("orders", "failed", "the history is lost", NOW - 100)
        assert read_status(job, NOW)["state"] == "failed"
        assert read_status(job, NOW)["reason"] == "the history is lost"

    def test_an_older_one_does_not(self, job: Job) -> None:
        with Store.open(job.store) as store:
            store.enter_state("orders", "failed", "the history is lost", NOW - 300)
        save(job, report(), NOW - 200)
        assert read_status(job, NOW)["state"] == "synchronizing"

    @pytest.mark.parametrize("state", STATES)
    def test_without_a_report_a_failure_is_shown_and_an_engine_is_not_believed(self, job: Job, state: str) -> None:
        with Store.open(job.store) as store:
            store.enter_state("orders", state, "why", NOW)
        document = read_status(job, NOW)
        expected = ("not-started", "") if state in RUNNING else (state, "why")
        assert (document["state"], document["reason"]) == expected


class TestDrain:
    def test_nothing_is_missing_when_every_site_has_reached_its_target(self) -> None:
        drained = report(conflicts_open=0)
        assert missing_for_drain(drained, {"east": (A, 900), "west": (B, 49)}) == []
        assert missing_for_drain(drained, {"east": (A, 900)}) == []

    @pytest.mark.parametrize(
        ("targets", "said"),
        [
            ({"east": (A, 1000)}, "east: 100 bytes of its writes are not applied .*offset 900 of 1000"),
            ({"east": (B, 10)}, "east: the engine follows history aaaaaaaa.. of it, .* bbbbbbbb.."),
            ({"north": (A, 10)}, "north: the engine has not said yet"),
        ],
    )
    def test_what_is_missing_is_said_in_words(self, targets: dict[str, tuple[str, int]], said: str) -> None:
        (text,) = missing_for_drain(report(conflicts_open=0), targets)
        assert re.search(said, text), text

    @pytest.mark.parametrize(("count", "said"), [(1, "1 arbitration is open"), (2, "2 arbitrations are open")])
    def test_an_open_arbitration_is_missing_too(self, count: int, said: str) -> None:
        assert missing_for_drain(report(conflicts_open=count), {"east": (A, 1)}) == [said]

    def test_without_an_engine_nothing_is_drained(self) -> None:
        assert missing_for_drain(None, {}) == ["no engine is running"]

    @given(
        st.dictionaries(st.sampled_from("xyz"), st.tuples(st.sampled_from([A, B]), st.integers(0, 9))),
        st.dictionaries(st.sampled_from("xyz"), st.tuples(st.sampled_from([A, B]), st.integers(0, 9))),
        st.integers(0, 2),
    )
    def test_drained_means_that_every_target_is_reached_in_the_same_history(
        self, reached: dict[str, tuple[str, int]], targets: dict[str, tuple[str, int]], conflicts: int
    ) -> None:
        at = {site: Drained(*place) for site, place in reached.items()}
        done = not conflicts and all(
            site in reached and reached[site][0] == replid and reached[site][1] >= offset
            for site, (replid, offset) in targets.items()
        )
        assert (missing_for_drain(report(drained=at, conflicts_open=conflicts), targets) == []) == done

    def test_open_arbitrations_are_named_a_few_of_them_with_the_reason(self) -> None:
        units = [OpenUnit(0, "a", None, "OOM there", NOW), *(OpenUnit(3, f"k{n}", None, "", NOW) for n in range(9))]
        (text,) = missing_for_drain(report(conflicts_open=1_234, open_units=tuple(units)), {})
        named = "'k0' in database 3, 'k1' in database 3, 'k2' in database 3, 'k3' in database 3"
        assert text == f"1,234 arbitrations are open: 'a' in database 0 (OOM there), {named} and 1,229 more"
        assert text.count("database") == NAMED
        (text,) = missing_for_drain(report(conflicts_open=1, open_units=tuple(units[:1])), {})
        assert text == "1 arbitration is open: 'a' in database 0 (OOM there)"


class TestConflicts:
    def test_those_that_cannot_be_settled_are_told_apart(self, job: Job) -> None:
        units = (
            OpenUnit(0, "k\\xff", None, "OOM command not allowed", NOW - 5),
            OpenUnit(3, "h", ("hash", "f"), "NOPERM", NOW - 4),
            OpenUnit(3, "under way", None, "", NOW - 3),
        )
        kinds = {"key": 2, "hash": 1, "later": 9}
        save(job, report(conflicts_open=7, conflicts_by_kind=kinds, unsettled=30, open_units=units))
        told = read_status(job, NOW)["conflicts"]
        assert told["unsettled_total"] == 30 and told["open"] == 7
        assert told["unsettled"] == [
            *[{"database": 0, "key": "k\\xff", "element": None, "why": units[0].why, "since": time_text(NOW - 5)}],
            {
                **{"database": 3, "key": "h", "element": {"type": "hash", "name": "f"}},
                **{"why": "NOPERM", "since": time_text(NOW - 4)},
            },
        ]
        assert told["by_kind"] == {**dict.fromkeys(KINDS, 0), **kinds}, "kinds of a later version are shown too"

    def test_that_wait_for_the_store_are_counted_with_the_reason(self, job: Job) -> None:
        save(job, report(unrecorded=4, store_failing="the disk is full"))
        told = read_status(job, NOW)["conflicts"]
        assert (told["unrecorded"], told["store_failing"]) == (4, "the disk is full")

    def test_stay_open_when_the_engine_is_gone(self, job: Job, dead_pid: int) -> None:
        unit = OpenUnit(0, "k", None, "NOPERM", NOW)
        save(job, report(pid=dead_pid, unsettled=1, open_units=(unit,)))
        told = read_status(job, NOW)["conflicts"]
        assert told["open"] == 1 and told["unsettled"] == [unit.to_json()]

    @pytest.mark.parametrize(
        ("key", "element", "name"),
        [
            ("k", None, "'k' in database 2"),
            ("", None, '"" in database 2'),
            ("", ("hash", ""), 'field "" of "" in database 2'),
            ("h", ("hash", "a b"), "field 'a b' of 'h' in database 2"),
            ("h", ("hash", "{0}"), "field '{0}' of 'h' in database 2"),
            ("s", ("set", "m"), "member 'm' of 's' in database 2"),
            ("z", ("zset", "m"), "member 'm' of 'z' in database 2"),
            ("k", ("ttl", ""), "time to live of 'k' in database 2"),
            ("k", ("later", "x"), "later 'x' of 'k' in database 2"),
            ("", ("functions", ""), "functions"),
            ("functions", None, "'functions' in database 2"),
        ],
    )
    def test_units_have_names_for_people(self, key: str, element: tuple[str, str] | None, name: str) -> None:
        assert unit_name(2, key, element) == OpenUnit(2, key, element, "", 0).name == name


class TestReport:
    @given(
        st.builds(
            Report,
            state=st.sampled_from(STATES),
            channels=st.dictionaries(
                st.sampled_from(["forward", "reverse"]),
                st.builds(
                    ChannelReport,
                    lag_ms=st.none() | st.floats(0, 1e9),
                    ops_per_s=st.floats(0, 1e9),
                    bytes_per_s=st.floats(0, 1e9),
                    limits=st.builds(LimitsReport, st.integers(0, 9), share=st.floats(0, 1)),
                ),
            ),
            conflicts_by_kind=st.dictionaries(st.sampled_from(sorted(KINDS)), st.integers(0, 9)),
            open_units=st.lists(st.builds(OpenUnit), max_size=3).map(tuple),
        )
    )
    def test_survives_json(self, value: Report) -> None:
        assert Report.from_dict(json.loads(json.dumps(value.to_dict()))) == value

    def test_of_an_earlier_version_has_no_word_of_open_units(self) -> None:
        known = {"state", "reason", "epoch", "pid", "since_ms", "channels", "conflicts_total", "conflicts_open"}
        earlier = {name: value for name, value in report().to_dict().items() if name in known | {"drained"}}
        assert Report.from_dict(earlier) == report()

    def test_fields_of_a_later_version_are_passed_over(self) -> None:
        assert Report.from_dict({**report().to_dict(), "mood": "good"}) == report()

    def test_a_report_without_its_fields_is_an_error_that_names_them(self, job: Job) -> None:
        with Store.open(job.store) as store:
            store.save_report("orders", {"state": "failed", "reason": "", "epoch": "x", "pid": 1}, NOW)
        with pytest.raises(StoreError, match="the engine's report cannot be read") as e:
            read_status(job, NOW)
        assert "epoch" in e.value.why and "since_ms" in e.value.why


@given(st.integers(0, 4_000_000_000_000))
def test_times_keep_their_milliseconds_and_sort_as_text(at_ms: int) -> None:
    assert time_text(at_ms).endswith(f".{at_ms % 1000:03d}Z")
    assert time_text(at_ms) < time_text(at_ms + 1)


def test_a_time_is_in_utc() -> None:
    assert time_text(NOW) == NOW_TEXT

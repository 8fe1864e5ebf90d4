"""`bisync status`: the state of a job for people and for scripts."""

import json
import pathlib

import attrs
from click.testing import CliRunner

from bisync.cli.status import command
from bisync.config import load_job
from bisync.runtime.store import Store
from bisync.status import OpenUnit, time_text
from tests.cli import jobs


def shown(file: pathlib.Path, *options: str) -> str:
    done = CliRunner().invoke(command, [str(file), *options], catch_exceptions=False)
    assert (done.exit_code, done.stderr) == (0, "")
    return done.stdout


def test_shows_state_engine_channels_conflicts_and_events(tmp_path: pathlib.Path) -> None:
    file = jobs.job_file(tmp_path)
    job = jobs.save(file, jobs.report(conflicts_open=1))
    with Store.open(job.store) as store:
        store.add_event("orders", jobs.now_ms(), "info", "copied", "the full copy of east is finished")
    lines = [" ".join(line.split()) for line in shown(file).splitlines()]
    assert lines[0].startswith("orders synchronizing bidirectional engine ")
    assert "forward synchronizing 3 ms 120 bytes 1,500 ops/s, 90.0 kB/s 7,000 ops 10 of 12 keys, 4.1 kB" in lines
    assert "reverse synchronizing - 120 bytes 1,500 ops/s, 90.0 kB/s 7,000 ops -" in lines
    assert "conflicts: 5 in all, 1 open" in lines
    assert lines[-1].endswith("info copied: the full copy of east is finished")


def test_shows_that_the_target_is_scanned_for_stale_keys(tmp_path: pathlib.Path) -> None:
    file = jobs.job_file(tmp_path)
    channels = jobs.report().channels
    copying = attrs.evolve(channels["forward"], target_keys_checked=3_000, target_keys_total=10_000)
    jobs.save(file, jobs.report(state="initializing", channels={**channels, "forward": copying}))
    lines = [" ".join(line.split()) for line in shown(file).splitlines()]
    assert any(line.endswith("10 of 12 keys, 4.1 kB; 3,000 of 10,000 keys of the target checked") for line in lines)


def test_shows_a_job_that_no_engine_has_run(tmp_path: pathlib.Path) -> None:
    text = shown(jobs.job_file(tmp_path))
    assert "orders  not-started" in text and "no engine yet" in text


def test_shows_why_a_job_failed_with_every_sign_in_the_reason(tmp_path: pathlib.Path) -> None:
    file = jobs.job_file(tmp_path)
    jobs.save(file, jobs.report(state="failed", reason="see [sites.east] and\n[bold]line two[/bold]"))
    text = shown(file)
    assert "orders  failed" in text
    assert "see [sites.east] and\n[bold]line two[/bold]" in text


def test_says_that_no_engine_is_running(tmp_path: pathlib.Path) -> None:
    file = jobs.job_file(tmp_path)
    jobs.save(file, jobs.report(pid=jobs.dead_pid()))
    text = shown(file)
    assert "orders  suspended" in text and "no engine is running (the last one: epoch 3" in text


def test_of_a_one_way_job_has_one_channel(tmp_path: pathlib.Path) -> None:
    text = shown(jobs.job_file(tmp_path, topology="one-way"))
    assert "forward" in text and "reverse" not in text


def test_says_which_keys_could_not_be_settled_why_and_what_to_do(tmp_path: pathlib.Path) -> None:
    file = jobs.job_file(tmp_path)
    since_ms = jobs.now_ms()
    units = (
        OpenUnit(0, "[bold]k[/bold]", None, "west: OOM command not allowed", since_ms),
        OpenUnit(3, "h", ("hash", "f"), "NOPERM", since_ms),
        OpenUnit(0, "under way", None, "", since_ms),
    )
    kinds = {"key": 3_000, "hash": 2, "set": 0}
    told = jobs.report(conflicts_total=3_002, conflicts_open=9, conflicts_by_kind=kinds)
    jobs.save(file, attrs.evolve(told, unsettled=3, open_units=units))
    lines = shown(file).splitlines()
    assert "conflicts: 3,002 in all (3,000 about whole keys, 2 about fields of hashes), 9 open" in lines
    at = lines.index("not settled: 3; both sites may hold different values there")
    since = time_text(since_ms)
    assert lines[at + 1] == f"  '[bold]k[/bold]' in database 0, since {since}: west: OOM command not allowed"
    assert lines[at + 2] == f"  field 'f' of 'h' in database 3, since {since}: NOPERM"
    assert lines[at + 3] == "  and 1 more"
    assert lines[at + 4].startswith("  next: ")
    assert "under way" not in "".join(lines)


def test_says_that_conflicts_wait_for_the_store(tmp_path: pathlib.Path) -> None:
    file = jobs.job_file(tmp_path)
    jobs.save(file, jobs.report(unrecorded=2, store_failing="the store is full"))
    text = shown(file)
    assert "not recorded: 2; the store is full\n  next: make room" in text
    jobs.save(file, jobs.report(unrecorded=2))
    assert "not recorded" not in shown(file), "they are only under way"
    jobs.save(file, jobs.report(store_failing="the store is full"))
    assert "not recorded" not in shown(file), "nothing waits for it"


def test_json_is_the_status_document(tmp_path: pathlib.Path) -> None:
    file = jobs.job_file(tmp_path)
    jobs.save(file, jobs.report())
    document = json.loads(shown(file, "--json"))
    assert (document["job"], document["state"]) == ("orders", "synchronizing")
    assert list(document["channels"]) == ["forward", "reverse"]


def test_never_shows_the_password(tmp_path: pathlib.Path) -> None:
    file = jobs.job_file(tmp_path, east="redis://:open-sesame@127.0.0.1:1")
    assert load_job(file).source.endpoint.password is not None
    assert "sesame" not in shown(file) + shown(file, "--json")

"""`bisync reconcile JOB --dry-run`: the plan, before the job has begun."""

import json
import pathlib

import pytest
from click.testing import CliRunner, Result

from bisync.cli.reconcile import command
from bisync.testing.servers import local_servers
from tests.cli import jobs

pytestmark = pytest.mark.slow


def call(*words: object) -> Result:
    return CliRunner().invoke(command, [str(word) for word in words])


def test_the_plan_says_what_would_be_done_and_does_nothing(tmp_path: pathlib.Path) -> None:
    with local_servers(tmp_path, "east", "west") as (east, west):
        file = jobs.job_file(tmp_path, east.url, west.url)
        with file.open("a") as more:
            more.write('[objects]\ndatabases = { 0 = 0, 3 = 5 }\nexclude = ["tmp:*"]\n')
            more.write('[conflicts]\nkeep_entries = 2\nrules = [{ keys = ["stock:*"], policy = "prefer:west" }]\n')
        with east.client() as here, west.client() as there, east.client(3) as third, west.client(5) as fifth:
            here.mset(
                {"same": 1, "tmp:1": 1, "only:e": 1, "name": "ann", "stock:1": 5, **{f"e{n}": n for n in range(30)}}
            )
            there.mset({"same": 1, "tmp:2": 1, "name": "bob", "stock:1": 6, "bisync:other:beat": 1})
            there.rpush("only:w", 1, 2)
            third.set("k\xff", "x")
            fifth.sadd("k\xff", "x")
            before = here.dbsize(), there.dbsize(), east.replication_offset, west.replication_offset
            found = json.loads(call(file, "--dry-run", "--json").stdout)
            text = call(file, "--dry-run", "--samples", 2).stdout
            assert (here.dbsize(), there.dbsize(), east.replication_offset, west.replication_offset) == before
    assert (found["only_source"]["count"], len(found["only_source"]["samples"])) == (31, 10)
    assert found["only_source"]["samples"][0]["winner"] == "east"
    [only] = found["only_target"]["samples"]
    assert (only["key"], only["winner"], only["why"], only["source"]) == ("only:w", "west", "only at west", "missing")
    different = {sample["key"]: sample for sample in found["different"]["samples"]}
    assert {key: (d["winner"], d["why"], d["kind"]) for key, d in different.items()} == {
        "name": ("east", "order of the sites", "value"),
        "stock:1": ("west", "preferred site", "value"),
        "kÿ": ("east", "order of the sites", "type"),
    }
    assert different["kÿ"]["database"] == 3 and "set" in different["kÿ"]["target"] and different["name"]["size"] > 0
    assert found["winners"] == {"east": 2, "west": 1} and found["compared"] == 36
    assert "the log keeps 2 conflicts, and more values would be replaced" in text
    for said in (
        "only at east: 31, to be copied to west",
        "... and 29 more",
        "would stand: 2 of east, 1 of west",
        "Note:",
    ):
        assert said in text


def test_without_dry_run_it_says_who_does_it(tmp_path: pathlib.Path) -> None:
    done = call(jobs.job_file(tmp_path))
    assert done.exit_code == 2
    assert "--dry-run" in done.output and 'target_not_empty = "reconcile"' in " ".join(done.output.split())


def test_a_one_way_job_has_nothing_to_reconcile(tmp_path: pathlib.Path) -> None:
    done = call(jobs.job_file(tmp_path, topology="one-way"), "--dry-run")
    assert done.exit_code == 2 and "one-way" in done.output and "bisync verify" in done.output


def test_a_site_that_is_away_is_one_error(tmp_path: pathlib.Path) -> None:
    done = call(jobs.job_file(tmp_path), "--dry-run")
    assert done.exit_code == 1 and "east" in str(done.exception)

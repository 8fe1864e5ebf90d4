"""What the engine tells the core of a job file."""

import pathlib

import attrs

from bisync.config import load_job
from bisync.core.patterns import Scope
from bisync.core.rules import Rules
from bisync.runtime.engine import rules_of

JOB = """
name = "orders"
topology = "one-way"
[sites.east]
url = "redis://127.0.0.1:1"
[sites.west]
url = "redis://127.0.0.1:2"
[full_copy]
target_not_empty = "overwrite"
on_gap = "full"
whole_bytes = 65_540
piece_bytes = 65_541
[objects]
databases = { 0 = 3 }
[commands]
flush = "stop"
[conflicts]
policy = "prefer:west"
value_bytes = 1
rebuild_bytes = 65_537
[[conflicts.rules]]
keys = ["a:*", "é"]
policy = "prefer:east"
[[conflicts.rules]]
keys = ["b"]
policy = "last-writer"
[engine]
heartbeat_ms = 20
batch_commands = 2
batch_bytes = 2000
on_refused = "quarantine"
queue_bytes = 65_538
pending_bytes = 65_539
checkpoint_every_ms = 101
"""
NOT_IN_THE_JOB_FILE = {"checkpoint_bytes", "database_counts", "servers"}


def test_the_core_is_told_every_rule_of_the_job_file(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "orders.toml"
    file.write_text(JOB)
    rules = rules_of(load_job(file))
    assert rules == Rules(
        job="orders",
        source="east",
        target="west",
        bidirectional=False,
        scope=Scope({0: 3}),
        policy="west",
        policies=(((b"a:*", "é".encode()), "east"), ((b"b",), "last-writer")),
        actions={"flush": "stop", "swapdb": "pass", "publish": "pass", "function": "pass", "script": "pass"},
        target_not_empty="overwrite",
        on_refused="quarantine",
        heartbeat_ms=20,
        checkpoint_every_ms=101,
        batch_commands=2,
        batch_bytes=2000,
        queue_bytes=65_538,
        pending_bytes=65_539,
        conflict_value_bytes=1,
        rebuild_bytes=65_537,
        on_gap="full",
        whole_bytes=65_540,
        piece_bytes=65_541,
    )
    defaults = Rules("", "", "")
    same = {a.name for a in attrs.fields(Rules) if getattr(rules, a.name) == getattr(defaults, a.name)}
    assert same == NOT_IN_THE_JOB_FILE, "every other rule was set to something else than its default here"
    assert rules.policy_for("é".encode()) == "east" and rules.policy_for(b"c") == "west"


def test_the_defaults_of_the_job_file_are_those_of_the_core(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "orders.toml"
    file.write_text(JOB.split("[full_copy]")[0].replace("one-way", "bidirectional"))
    rules = rules_of(load_job(file))
    assert attrs.evolve(rules, actions={}) == Rules("orders", "east", "west")

"""What the core knows of a job."""

import pytest

from bisync.core.patterns import Scope, compile_patterns
from bisync.core.rules import LAST_WRITER, Rules


def test_each_channel_reads_one_site_and_writes_to_the_other() -> None:
    rules = Rules("job", "east", "west")
    assert rules.sites == rules.origins == ("east", "west")
    assert [rules.other(s) for s in rules.sites] == ["west", "east"]
    assert [rules.channel(s) for s in rules.sites] == ["forward", "reverse"]


def test_a_one_way_job_reads_its_source_only() -> None:
    assert Rules("job", "east", "west", bidirectional=False).origins == ("east",)


@pytest.mark.parametrize("database", range(4))
def test_without_a_choice_databases_have_the_same_number_everywhere(database: int) -> None:
    rules = Rules("job", "east", "west")
    assert {rules.database_at(site, database) for site in rules.sites} == {database}


def test_databases_are_mapped_at_the_target_alone() -> None:
    rules = Rules("job", "east", "west", scope=Scope(databases={0: 0, 3: 5}))
    assert rules.database_at("east", 3) == 3
    assert rules.database_at("west", 3) == 5
    assert rules.database_at("west", 9) == 9, "not copied: there is no better number"


POLICIES = (((b"session:*", b"cart:?"), "east"), ((b"cart:*",), "last-writer"), ((b"*\xff",), "west"))


@pytest.mark.parametrize(
    ("key", "policy"),
    [
        (b"session:1", "east"),
        (b"cart:1", "east"),
        (b"cart:12", "last-writer"),
        (b"session:\xff", "east"),
        (b"cart:1\xff", "last-writer"),
        (b"\n\xff", "west"),
        (b"Session:1", "west of the default"),
        (b"a session:1", "west of the default"),
        (b"", "west of the default"),
    ],
)
def test_the_first_patterns_that_match_a_key_say_its_policy(key: bytes, policy: str) -> None:
    rules = Rules("job", "east", "west", policy="west of the default", policies=POLICIES)
    assert rules.policy_for(key) == policy


def test_without_patterns_every_key_has_the_policy_of_the_job() -> None:
    assert Rules("job", "east", "west").policy_for(b"k") == LAST_WRITER
    assert Rules("job", "east", "west", policy="west").policy_for(b"k") == "west"


def test_many_patterns_are_compiled_once() -> None:
    """A conflict asks them each time: 100 rules are as many as a job file may have."""
    policies = tuple(((b"%d:*" % n,), "east") for n in range(100))
    rules = Rules("job", "east", "west", policies=policies)
    rules.policy_for(b"k")
    misses = compile_patterns.cache_info().misses
    assert rules.policy_for(b"99:1") == "east" and rules.policy_for(b"100:1") == LAST_WRITER
    assert compile_patterns.cache_info().misses == misses

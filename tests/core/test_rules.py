"""What the core knows of a job."""

import pytest

from bisync.core.patterns import Scope
from bisync.core.rules import Rules


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

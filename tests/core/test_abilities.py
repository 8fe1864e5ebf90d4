"""What a site's refusals teach."""

import pytest

from bisync.core.abilities import Abilities


def learnt(able: Abilities, text: str) -> bool:
    """Was that news?"""
    before = able.lessons
    able.learn(text)
    return able.lessons > before


@pytest.mark.parametrize(
    ("text", "lacking"),
    [
        ("ERR unknown command 'PEXPIRETIME', with args beginning with: 'k' ", b"PEXPIRETIME"),
        ("ERR unknown command `PEXPIRETIME`, with args beginning with: `k`, ", b"PEXPIRETIME"),
        ("ERR unknown command 'UNLINK'", b"UNLINK"),
        ("NOPERM this user has no permissions to run the 'memory|usage' command", b"MEMORY"),
        ("NOPERM User default has no permissions to run the 'memory' command", b"MEMORY"),
        ("ERR Unknown subcommand or wrong number of arguments for 'STREAM'. Try XINFO HELP.", b"XINFO"),
    ],
)
def test_a_command_that_is_refused_is_not_tried_again(text: str, lacking: bytes) -> None:
    able = Abilities()
    assert able.has(lacking)
    assert learnt(able, text)
    assert not able.has(lacking)
    assert not learnt(able, text), "that is no news any more"


@pytest.mark.parametrize("text", ["ERR DUMP payload version or checksum are wrong", "ERR Bad data format"])
def test_a_payload_that_is_refused_says_that_restore_is_no_way(text: str) -> None:
    able = Abilities()
    assert learnt(able, text) and not able.restores
    assert not learnt(able, text)


def test_the_options_of_restore_are_given_up_one_by_one() -> None:
    able = Abilities()
    assert [learnt(able, "ERR syntax error") for _ in range(3)] == [True, True, False]
    assert able.options == 0


def test_a_server_of_2_8_counts_the_arguments_of_restore() -> None:
    able = Abilities()
    text = "ERR wrong number of arguments for 'restore' command"
    assert [learnt(able, text) for _ in range(3)] == [True, True, False]
    assert able.options == 0


@pytest.mark.parametrize(
    "text",
    [
        "NOPERM this user has no permissions to run the 'eval' command",
        "NOPERM No permissions to access a key",
        "ERR unknown command 'DUMP'",
        "OOM command not allowed when used memory > 'maxmemory'.",
        "",
    ],
)
def test_what_there_is_no_other_way_for_teaches_nothing(text: str) -> None:
    able = Abilities()
    assert not learnt(able, text)
    assert able == Abilities()

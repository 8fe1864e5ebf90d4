"""The table of what both sites end with when two commands met."""

import pathlib

import pytest

from bisync.core.meeting import OUTCOMES, in_page, meetings, operation, outcome

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "conflicts.md"
REMAKE = """from bisync.core.meeting import in_page; import pathlib
p = pathlib.Path("docs/conflicts.md"); p.write_text(in_page(p.read_text()))"""


def test_page_is_current() -> None:
    page = PAGE.read_text()
    assert in_page(page) == page, f"make it again: .venv/bin/python -c '{REMAKE}'"
    assert meetings() in page


def test_every_word_is_used_and_explained() -> None:
    used = {line.split(" | ")[3] for line in meetings().splitlines()[2:]}
    assert used == OUTCOMES.keys()


@pytest.mark.parametrize(
    "p, q, word",
    [
        ("SET k a", "SET k b", "newest"),
        ("SET k a NX", "SETNX k a", "both"),
        ("INCR k", "DECRBY k 5", "sum"),
        ("HSET h f 1 g 2", "HSET h g 3", "newest"),
        ("HINCRBY h f 1", "HSET h f 5", "in order"),
        ("DEL k", "APPEND k a", "update"),
        ("EXPIREAT k 5", "PERSIST k", "longest"),
        ("XADD x 1-1 f v", "XADD x 1-1 f w", "merged"),
        ("ZADD k 1 a", "LPUSH k a", "one type"),
        ("SADD s a", "SREM s b", "both"),
    ],
)
def test_what_comes_of_two_commands(p: str, q: str, word: str) -> None:
    ours, theirs = (operation(tuple(call.encode().split())) for call in (p, q))
    assert outcome(ours, theirs) == outcome(theirs, ours) == word

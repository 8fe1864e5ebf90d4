"""The tables of conflicts in a job file. More is in tests/test_config.py."""

import pytest

from bisync.conflict_options import _read_policy


@pytest.mark.parametrize(
    ("value", "meant"),
    [
        ("PREFER:east", "prefer:east"),
        ("Prefer: East", "prefer:east"),
        ("prefer=west", "prefer:west"),
        ("prefer east", "prefer:east"),
        ("preferred:east", "prefer:east"),
        ("prefer", "prefer:<site>"),
        ("LAST-WRITER", "last-writer"),
        ("last_writer", "last-writer"),
    ],
)
def test_a_policy_that_is_nearly_one_is_told_which(value: str, meant: str) -> None:
    with pytest.raises(ValueError, match=f"^expected 'last-writer' or 'prefer:<site>'; did you mean {meant!r}[?]$"):
        _read_policy(value)


@pytest.mark.parametrize("value", ["", "newest", "PREFER:", 3, None, ["prefer:east"]])
def test_what_is_none_is_told_what_would_be(value: object) -> None:
    with pytest.raises(ValueError, match="^expected 'last-writer' or 'prefer:<site>'"):
        _read_policy(value)

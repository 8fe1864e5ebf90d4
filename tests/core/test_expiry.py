"""When a key expires after a command that does nothing else: what "the longest time to live wins" compares."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bisync.core.commands import absolute_expiry, expiry_of, normalise
from bisync.testing.samples import SAMPLES


@pytest.mark.parametrize(
    "call, at",
    [
        ("PEXPIREAT k 5", 5),
        ("pexpireat k 5 GT", 5),
        ("EXPIREAT k 5", 5000),
        ("PERSIST k", math.inf),
        ("GETEX k PXAT 5", 5),
        ("GETEX k exat 5", 5000),
        ("GETEX k PERSIST", math.inf),
        ("HPEXPIREAT h 5 FIELDS 1 f", 5),
        ("HPERSIST h FIELDS 1 f", math.inf),
        ("GETEX k", None),
        ("GETEX k EX 5", None),
        ("EXPIRE k 5", None),
        ("PEXPIREAT k x", None),
        ("PEXPIREAT k", None),
        ("SET k v PXAT 5", None),
        ("SET k PERSIST", None),
        ("HSETEX h PXAT 5 FIELDS 1 f v", None),
        ("DEL k", None),
    ],
)
def test_when_the_key_expires(call: str, at: float | None) -> None:
    assert expiry_of(tuple(call.encode().split())) == at


@given(seconds=st.integers(-5, 10**9), now_ms=st.integers(0, 10**13))
def test_a_relative_time_counts_from_when_it_was_written(seconds: int, now_ms: int) -> None:
    for name, option in ((b"EXPIRE", ()), (b"GETEX", (b"EX",))):
        args = normalise(absolute_expiry((name, b"k", *option, b"%d" % seconds), now_ms))
        assert expiry_of(args) == now_ms + 1000 * seconds


def test_only_what_sets_nothing_but_a_time_to_live_has_an_answer() -> None:
    named = {s.name for s in SAMPLES if s.call and expiry_of(normalise(absolute_expiry(s.call, 1))) is not None}
    keys = {"EXPIRE", "EXPIREAT", "PEXPIRE", "PEXPIREAT", "PERSIST", "GETEX"}
    fields = {"HEXPIRE", "HEXPIREAT", "HPEXPIRE", "HPEXPIREAT", "HPERSIST", "HGETEX"}
    assert named == keys | fields

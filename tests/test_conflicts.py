"""The log of conflicts for people and programs: times, keys, documents."""

import datetime
import json

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bisync.conflicts import as_document, element_text, key_text, lines_about, lines_of_value, read_time, with_key
from bisync.core.actions import ConflictingWrite, Replaced
from bisync.core.commands import FUNCTIONS
from bisync.core.moment import BEFORE_ALL
from bisync.runtime.conflict_record import ConflictRecord
from bisync.runtime.conflict_table import Wanted
from bisync.text import readable
from tests.told import T, lost, sha, told


def record(**changes: object) -> ConflictRecord:
    held = ConflictRecord.of(told(1, "settled", replaced=lost(b"old"), kept=sha(b"new")))
    return attrs.evolve(held, id=12, **changes)  # type: ignore[arg-type]


class TestTimes:
    @pytest.mark.parametrize(
        ("text", "back_ms"),
        [("90s", 90_000), ("15m", 900_000), ("2h", 7_200_000), ("3d", 259_200_000), (" 1w ", 604_800_000), ("0s", 0)],
    )
    def test_an_age_counts_back_from_now(self, text: str, back_ms: int) -> None:
        assert read_time(text, T) == T - back_ms

    @pytest.mark.parametrize(
        "text",
        ["2023-11-14T22:13:20Z", "2023-11-14 22:13:20", "2023-11-15T00:13:20.000+02:00", "20231114T221320"],
    )
    def test_a_time_without_an_offset_is_in_utc(self, text: str) -> None:
        assert read_time(text, 0) == T

    def test_a_day_is_its_beginning(self) -> None:
        assert (
            read_time("2023-11-14", 0) == int(datetime.datetime(2023, 11, 14, tzinfo=datetime.UTC).timestamp()) * 1000
        )

    @pytest.mark.parametrize("text", ["", "yesterday", "15", "15y", "-3d", "1.5h", "2023-13-01", "9999999999d"])
    def test_what_is_no_time_is_refused_with_what_would_be(self, text: str) -> None:
        with pytest.raises(ValueError, match="expected an age such as 15m"):
            read_time(text, T)

    def test_what_the_log_shows_can_be_given_back(self) -> None:
        assert read_time(str(as_document(record())["time"]), 0) == T


def takes(text: str, key: bytes) -> bool:
    wanted = with_key(Wanted(), text)
    if wanted.key is not None:
        return wanted.key == key
    assert wanted.matches is not None
    return bool(wanted.matches(key))


class TestKeys:
    @pytest.mark.parametrize(
        ("text", "key", "expected"),
        [
            ("order:1", b"order:1", True),
            ("order:1", b"order:11", False),
            ("order:*", b"order:1", True),
            ("order:?", b"order:12", False),
            ("[ab]c", b"bc", True),
            ("[ab]c", b"[ab]c", True),  # a key that looks like a pattern
            ("a*", b"a*", True),
            (r"a\*", b"a*", True),
            (r"a\*", b"ab", False),
            (r"\xff\x00", b"\xff\x00", True),
            (r"\xff*", b"\xffabc", True),
            (r"\x2a", b"*", True),
            (r"\x2a", b"anything", False),
            ("k\\\\x", b"k\\x", True),
            ("k\\\\xff", b"k\\xff", True),
            ("ü", "ü".encode(), True),
        ],
    )
    def test_a_key_or_a_pattern(self, text: str, key: bytes, expected: bool) -> None:
        assert takes(text, key) is expected

    def test_an_exact_key_is_left_to_the_index(self) -> None:
        assert with_key(Wanted(), "order:1").key == b"order:1"
        assert with_key(Wanted(), r"\xff").key == b"\xff"
        assert with_key(Wanted(), "order:*").key is None

    @pytest.mark.slow
    @given(st.binary(min_size=1, max_size=12))
    def test_every_key_is_found_by_what_is_shown_of_it(self, key: bytes) -> None:
        assert takes(readable(key), key)

    @pytest.mark.slow
    @given(st.binary(max_size=6), st.binary(max_size=6))
    def test_no_other_key_is_found_by_a_key_without_signs_of_patterns(self, a: bytes, b: bytes) -> None:
        if a != b and not set(b"*?[") & set(a):
            assert not takes(readable(a), b)

    @pytest.mark.slow
    @given(st.text(max_size=12))
    def test_every_text_is_a_key_or_a_pattern(self, text: str) -> None:
        takes(text, b"key")


class TestDocument:
    def test_has_all_that_scripts_look_for(self) -> None:
        document = as_document(record())
        assert json.loads(json.dumps(document)) == document
        assert {k: document[k] for k in ("id", "time", "database", "key", "element", "policy", "winner", "rule")} == {
            **{"id": 12, "time": "2023-11-14T22:13:20.000Z", "database": 0, "key": "k", "element": None},
            **{"policy": "last-writer", "winner": "east", "rule": "newest write"},
        }
        assert document["writes"][0] == {
            **{"site": "east", "command": "SET k v", "offset": 100, "time": "2023-11-14T22:13:20.000000Z"},
            "earliest": "2023-11-14T22:13:19.999500Z",
        }
        assert document["counts"] == {"east": 1, "west": 1} and document["offsets"]["east"] == [100, 100]
        assert (document["outcome"], document["settled"], document["certain"]) == (
            *("settled", "2023-11-14T22:13:20.050Z", True),
        )
        assert document["replaced"] == {
            **{"site": "west", "kind": "value", "value": "old", "expires_at": None, "size": 3},
            "digest": sha(b"old"),
        }

    def test_of_an_open_one(self) -> None:
        document = as_document(ConflictRecord.of(told(1)))
        assert (document["outcome"], document["settled"], document["replaced"]) == ("open", None, None)

    def test_bytes_that_are_no_text_are_escaped(self) -> None:
        document = as_document(record(key=b"\xff\x1b[2J\\", element=("hash", b"\x00")))
        assert document["key"] == r"\xff\x1b[2J" + "\\\\"
        assert document["element"] == {"type": "hash", "name": r"\x00"}

    def test_a_copied_key_has_no_time(self) -> None:
        copied = ConflictingWrite("east", b"RESTORE k", 0, BEFORE_ALL.earliest_us, BEFORE_ALL.latest_us)
        write = as_document(record(writes=(copied,)))["writes"][0]
        assert (write["time"], write["earliest"], write["offset"]) == (None, None, 0)

    def test_functions_are_in_no_database(self) -> None:
        held = record(database=FUNCTIONS[0], key=FUNCTIONS[1])
        assert as_document(held)["database"] is None and key_text(held) == "(all functions)"


class TestTexts:
    @pytest.mark.parametrize(
        ("element", "text"),
        [
            (None, ""),
            (("hash", b"f"), "field f"),
            (("set", b"\x07"), r"member \x07"),
            (("zset", b"m"), "member m"),
            (("ttl", b""), "time to live"),
        ],
    )
    def test_elements(self, element: tuple[str, bytes] | None, text: str) -> None:
        assert element_text(record(element=element)) == text

    @pytest.mark.parametrize(
        ("replaced", "element", "part"),
        [
            (None, None, "nothing, or the log does not know"),
            (lost(None), None, "nothing stood at west"),
            (lost(b"a\x1b"), ("hash", b"f"), r"at west: a\x1b"),
            (lost(b"1"), ("set", b"m"), "the member, at west"),
            (lost(b"1700000000000", "ttl", expires_at_ms=T), ("ttl", b""), "until 2023-11-14T22:13:20.000Z"),
            (Replaced("west", "dump", None, None, 1 << 20, "abc"), None, "1,048,576 bytes at west, which is not in"),
            (lost(b"no dump", "dump"), None, "7 bytes, as DUMP gives it"),
        ],
    )
    def test_what_lost(self, replaced: Replaced | None, element: tuple[str, bytes] | None, part: str) -> None:
        lines = dict(lines_of_value(record(replaced=replaced, element=element)))
        assert part in lines["replaced"]
        assert ("SHA-256" in lines) == (replaced is not None and replaced.kind == "dump" and replaced.value is None)

    def test_no_line_brings_a_terminal_out_of_order(self) -> None:
        held = record(key=b"\x1b[31m", element=("hash", b"\n"), replaced=lost(b"\x1b]0;x\x07"))
        for title, text in [*lines_about(held), *lines_of_value(held)]:
            assert (title + text).isprintable()

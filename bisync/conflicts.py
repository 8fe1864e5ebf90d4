"""The log of conflicts for people and for programs: choosing records, and the document made of one.

Undoing one is in `bisync.undo`.
"""

import datetime
import re
from collections.abc import Iterator
from typing import Any

import attrs

from bisync.contents import contents
from bisync.core.actions import ConflictingWrite, Replaced
from bisync.core.commands.places import Element
from bisync.core.patterns import compile_patterns
from bisync.runtime.conflict_record import OPEN, ConflictRecord
from bisync.runtime.conflict_table import Wanted
from bisync.status import time_text
from bisync.text import SHOWN_MAX, readable, shown

US_MAX = 253_000_000_000_000_000  # in the year 9987: what is beyond is no time

_AGE = re.compile(r"(\d{1,9})([smhdw])")
_AGE_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_ESCAPE = re.compile(rb"\\(?:x([0-9a-f]{2})|(.))", re.DOTALL)
_SPECIAL = frozenset(b"*?[")

FULL_BYTES_MAX = 4_096  # of a key, a name or a value, where one conflict is shown in full; JSON has all of it
EMPTY = shown(b"")
TIMES = "an age such as 15m, 2h or 3d, or a time such as 2024-05-31T14:00 (in UTC where it has no offset)"


def read_time(text: str, now_ms: int) -> int:
    """A time in ms since 1970: an age counted from `now_ms`, or a time in ISO 8601 (in UTC where it has no offset).

    Raises ValueError, which says what would be right.
    """
    age = _AGE.fullmatch(text.strip())
    if age is not None:
        return now_ms - int(age[1]) * _AGE_S[age[2]] * 1000
    try:
        at = datetime.datetime.fromisoformat(text.strip())
        return round((at if at.tzinfo else at.replace(tzinfo=datetime.UTC)).timestamp() * 1000)
    except (ValueError, OverflowError):
        raise ValueError(f"{text!r} is no time: expected {TIMES}") from None


def with_key(wanted: Wanted, text: str) -> Wanted:
    r"""`wanted`, only for the key that reads so, and for the keys that match it as a glob pattern.

    A key may be given as bisync shows it: \xNN is a byte, two backslashes are one, and "" is the empty key. Else
    patterns are those of `bisync.core.patterns`.
    """
    if text == EMPTY:
        return attrs.evolve(wanted, matches=lambda key: key in (b"", EMPTY.encode()))
    given = text.encode("utf-8", "surrogateescape")
    exact = _ESCAPE.sub(lambda m: bytes((int(m[1], 16),)) if m[1] else (m[2] if m[2] == b"\\" else m[0]), given)
    pattern = _ESCAPE.sub(lambda m: b"\\" + bytes((int(m[1], 16),)) if m[1] else m[0], given)
    if not _SPECIAL.intersection(given) and b"\\" not in exact.replace(b"\\\\", b""):
        return attrs.evolve(wanted, key=exact)
    matcher = compile_patterns(pattern)
    return attrs.evolve(wanted, matches=lambda key: key == exact or matcher.fullmatch(key) is not None)


def as_document(record: ConflictRecord) -> dict[str, Any]:
    r"""A record for JSON. Bytes are text with \xNN for what is no UTF-8 (`bisync.text.readable`), times ISO 8601."""
    return {
        "id": record.id,
        "time": time_text(record.found_ms),
        "database": None if record.about_functions else record.database,
        "key": readable(record.key),
        "element": _element(record.element),
        "writes": list(map(_write, record.writes)),
        "policy": record.policy,
        "winner": record.winner,
        "rule": record.rule,
        "certain": record.certain,
        "counts": record.counts,
        "offsets": {site: list(offsets) for site, offsets in record.offsets.items()},
        "outcome": record.outcome,
        "settled": _time(record.settled_ms),
        "replaced": _replaced(record.replaced),
        "kept": record.kept,
        "undone": _time(record.undone_ms),
        "epoch": record.epoch,
    }


def _time(at_ms: int | None) -> str | None:
    return None if at_ms is None else time_text(at_ms)


def _element(element: Element | None) -> dict[str, str] | None:
    return None if element is None else {"type": element[0], "name": readable(element[1])}


def write_time(at_us: int) -> str | None:
    """A time of a write (µs since 1970) as ISO 8601 in UTC, to the µs; None for that of a copied key."""
    if not 0 < at_us < US_MAX:
        return None
    return f"{time_text(at_us // 1000)[:-1]}{at_us % 1000:03d}Z"


def _write(write: ConflictingWrite) -> dict[str, Any]:
    return {
        "site": write.site,
        "command": readable(write.command),
        "offset": write.offset,
        "time": write_time(write.latest_us),
        "earliest": write_time(write.earliest_us),
    }


def _replaced(replaced: Replaced | None) -> dict[str, Any] | None:
    if replaced is None:
        return None
    return {
        "site": replaced.site,
        "kind": replaced.kind,
        "value": None if replaced.value is None else readable(replaced.value),
        "expires_at": _time(replaced.expires_at_ms),
        "size": replaced.size,
        "digest": replaced.digest,
    }


def key_text(record: ConflictRecord) -> str:
    """The key of a conflict, for people; a long one is cut."""
    return "(all functions)" if record.about_functions else shown(record.key)


def element_text(record: ConflictRecord, most: int = SHOWN_MAX) -> str:
    """The element of a conflict, for people; empty where it is about the whole key. One beyond `most` bytes is cut."""
    if record.element is None:
        return ""
    kind, name = record.element
    return "time to live" if kind == "ttl" else f"{'field' if kind == 'hash' else 'member'} {shown(name, most)}"


def unit_text(record: ConflictRecord) -> str:
    """What a conflict is about, in words: the key, or an element of it."""
    element = element_text(record)
    return f"{element} of {key_text(record)}" if element else key_text(record)


def lines_about(record: ConflictRecord) -> Iterator[tuple[str, str]]:
    """A record in full but its writes and the value that lost, as titles and texts; a very long key is cut."""
    yield "conflict", str(record.id)
    yield "found", time_text(record.found_ms)
    if record.about_functions:
        yield "unit", "all libraries of functions"
    else:
        yield "database", str(record.database)
        yield "key", shown(record.key, FULL_BYTES_MAX)
    if record.element is not None:
        yield "element", element_text(record, FULL_BYTES_MAX)
    yield "policy", record.policy
    yield "winner", f"{record.winner} ({record.rule}{'' if record.certain else '; the times could not tell'})"
    yield "writes met", ", ".join(f"{count} of {site}" for site, count in record.counts.items())
    yield "outcome", record.outcome
    if record.settled_ms is not None:
        yield "settled", time_text(record.settled_ms)
    if record.undone_ms is not None:
        yield "undone", time_text(record.undone_ms)


def lines_of_value(record: ConflictRecord) -> Iterator[tuple[str, str]]:
    """What lost, as titles and texts."""
    lost = record.replaced
    if lost is None:
        yield "replaced", "nothing yet" if record.state == OPEN else "nothing, or the log does not know what"
        return
    size = f"{lost.size:,} bytes"
    if lost.kind == "absent":
        yield "replaced", f"nothing stood at {lost.site}"
    elif lost.value is None:
        yield "replaced", f"a value of {size} at {lost.site}, which is not in the log"
    elif lost.kind == "ttl":
        yield "replaced", f"a time to live at {lost.site}, until {time_text(lost.expires_at_ms or 0)}"
    elif record.element is not None and record.element[0] == "set":
        yield "replaced", f"the member, at {lost.site}"
    elif lost.kind == "value":
        yield "replaced", f"at {lost.site}: {shown(lost.value, FULL_BYTES_MAX)}"
        if lost.expires_at_ms is not None:
            yield "", f"which expired at {time_text(lost.expires_at_ms)}"
    else:
        yield "replaced", f"at {lost.site}: {contents(lost.value)}"
        if lost.expires_at_ms is not None:
            yield "", f"which expired at {time_text(lost.expires_at_ms)}"
    if lost.digest and lost.value is None:
        yield "SHA-256", lost.digest
    if not record.kept:
        yield "kept", "nothing: it was removed there"

"""Conflicts as an engine tells them, made by hand."""

import hashlib
from typing import Any

from bisync.core.actions import Conflict, ConflictingWrite, Replaced
from bisync.runtime.conflict_record import Told

T = 1_700_000_000_000  # any time, in ms


def sha(value: bytes | None) -> str:
    """As the core gives digests: empty for nothing."""
    return "" if value is None else hashlib.sha256(value).hexdigest()


def lost(value: bytes | None, kind: str = "value", site: str = "west", expires_at_ms: int | None = None) -> Replaced:
    """What stood at the loser's site."""
    kind = "absent" if value is None else kind
    return Replaced(site, kind, value, expires_at_ms, len(value or b""), sha(value))


def write(site: str, offset: int, command: bytes = b"SET k v", at_us: int = T * 1000) -> ConflictingWrite:
    return ConflictingWrite(site, command, offset, at_us - 500, at_us)


def conflict(number: int = 1, state: str = "open", *, east: int = 100, west: int = 200, **changes: Any) -> Conflict:
    """A conflict of a write of east that ends at that offset, and one of west."""
    values: dict[str, Any] = {
        **{"number": number, "state": state, "database": 0, "key": b"k", "element": None, "policy": "last-writer"},
        **{"winner": "east", "rule": "newest write", "certain": True, "counts": {"east": 1, "west": 1}},
        **{
            "offsets": {"east": (east, east), "west": (west, west)},
            "writes": (write("east", east), write("west", west)),
        },
    }
    return Conflict(**{**values, **changes})


def told(
    number: int = 1, state: str = "open", *, epoch: int = 1, found_ms: int = T, settled_ms: int = T + 50, **changes: Any
) -> Told:
    """What a life said of it."""
    return Told(epoch, conflict(number, state, **changes), found_ms, settled_ms if state == "settled" else None)

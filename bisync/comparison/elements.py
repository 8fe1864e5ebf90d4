"""Two values of one type that have been read: are they equal, and if not, where do they differ? No I/O."""

from collections.abc import Mapping, Sequence
from typing import Any

from bisync.runtime.control import Refusal
from bisync.text import readable

SHOWN = 40  # bytes of a value in a message

Details = tuple[str, str]
"""What is different, for people: at the source, at the target."""


def shown(value: object) -> str:
    """A value for people, cut."""
    if isinstance(value, bytes):
        more = f"... ({len(value)} bytes)" if len(value) > SHOWN else ""
        return f'"{readable(value[:SHOWN])}"{more}'
    if isinstance(value, Refusal):
        return f"{value.code} {value.text}"
    return "missing" if value is None else str(value)


def compare_elements(kind: bytes, a: object, b: object) -> Details | None:
    """Compare two whole values of type `kind`, as LRANGE, SMEMBERS, HGETALL or ZRANGE WITHSCORES returned them.

    None: they are equal. A reply of another kind (the key has changed its type since) is a difference.
    """
    if not isinstance(a, list) or not isinstance(b, list):
        return None if a == b else (_kind_of(a), _kind_of(b))
    if kind == b"list":
        return compare_lists(a, b, 0)
    if kind == b"set":
        return compare_maps(dict.fromkeys(a, True), dict.fromkeys(b, True), "member")
    if kind == b"hash":
        return compare_maps(pairs(a), pairs(b), "field")
    return compare_maps(scores(a), scores(b), "member")


def _kind_of(reply: object) -> str:
    return "a value of this type" if isinstance(reply, list) else shown(reply)


def pairs(flat: Sequence[Any]) -> dict[Any, Any]:
    """A flat reply of names and values as a dict."""
    return dict(zip(flat[::2], flat[1::2]))


def scores(flat: Sequence[bytes]) -> dict[bytes, float]:
    """Members and scores. As numbers: versions of Redis write the same score in different ways."""
    return {member: float(score) for member, score in pairs(flat).items()}


def compare_maps(a: Mapping[bytes, object], b: Mapping[bytes, object], noun: str) -> Details | None:
    """The first name, in byte order, whose values differ. True stands for a member without a value."""
    if a == b:
        return None
    name = min(k for k in a.keys() | b.keys() if a.get(k) != b.get(k))
    return _element(a.get(name), name, noun), _element(b.get(name), name, noun)


def _element(value: object, name: bytes, noun: str) -> str:
    return f"{noun} {shown(name)}: {'present' if value is True else shown(value)}"


def compare_lists(a: Sequence[bytes], b: Sequence[bytes], offset: int) -> Details | None:
    """The first index where two lists, or pages of them that begin at `offset`, differ."""
    if a == b:
        return None
    at = next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))
    first, second = (shown(x[at]) if at < len(x) else "missing" for x in (a, b))
    return f"element {offset + at}: {first}", f"element {offset + at}: {second}"

"""Where the keys stand among the words of a command.

The table writes it in a small notation: `1` is one key, `1 2` two, `1..` all words from there on, `1..-1` all but the
last word, `1../2` every second word, `#2` as many keys as word 2 says, right after it, `#1/2` the same, each with a
value, `1 #2` a key and such a list. A few commands have their keys behind options and stand there by their own name:
`SORT`, `GEORADIUS`, `MIGRATE`, `XREADGROUP`.
Source: the key specifications in the `COMMAND` replies of Redis 7.0 to 8.10 and Valkey 8.1 to 9.1.
"""

import re
from collections.abc import Callable

Args = tuple[bytes, ...]
Finder = Callable[[Args], list[int]]
"""From a command to the indexes of its keys, written or read."""

_LIST = re.compile(r"(?P<first>\d+)\.\.(?P<last>-\d+)?(?:/(?P<step>\d+))?")
_COUNTED = re.compile(r"(?:(?P<alone>\d+) )?#(?P<count>\d+)(?:/(?P<step>\d+))?")


def finder(notation: str) -> Finder:
    """The function that finds the keys as the notation says. Raises ValueError where it says nothing."""
    if notation in _BY_NAME:
        return _BY_NAME[notation]
    if notation == "1":
        return only_first
    if notation == "-":
        return lambda args: []
    if all(word.isdigit() for word in notation.split()):
        positions = [int(word) for word in notation.split()]
        return lambda args: positions.copy()
    if found := _LIST.fullmatch(notation):
        first, spare, step = (
            int(found["first"]),
            int(found["last"] or 0),
            int(found["step"] or 1),
        )
        return lambda args: list(range(first, len(args) + spare, step))
    if found := _COUNTED.fullmatch(notation):
        return _counted(found["alone"], int(found["count"]), int(found["step"] or 1))
    raise ValueError(f"{notation!r} is no notation for the keys of a command")


def only_first(args: Args) -> list[int]:
    """For the many commands with one key, right after the name."""
    return [1]


def _counted(alone: str | None, count_at: int, step: int) -> Finder:
    before = [int(alone)] if alone else []

    def find(args: Args) -> list[int]:
        first = count_at + 1
        return before + list(range(first, min(len(args), first + int(args[count_at]) * step), step))

    return find


def _sort(args: Args) -> list[int]:
    """SORT key [BY pattern] [LIMIT offset count] [GET pattern ...] [ASC|DESC] [ALPHA] [STORE destination]"""
    store, at = [], 2
    while at < len(args):
        option = args[at].upper()
        if option == b"STORE" and at + 1 < len(args):
            store = [at + 1]  # of several the last one counts
        at += {b"LIMIT": 3, b"GET": 2, b"BY": 2, b"STORE": 2}.get(option, 1)
    return [1, *store]


def _georadius(args: Args) -> list[int]:
    """GEORADIUS key ... [STORE destination] [STOREDIST destination]: of several the last one counts."""
    store: list[int] = []
    for at in range(5, len(args) - 1):
        if args[at].upper() in (b"STORE", b"STOREDIST"):
            store = [at + 1]
    return [1, *store]


def _migrate(args: Args) -> list[int]:
    """MIGRATE host port key|"" database timeout [COPY] [REPLACE] [AUTH ...] [KEYS key ...]"""
    if args[3]:
        return [3]
    at = next((n for n in range(6, len(args)) if args[n].upper() == b"KEYS"), len(args))
    return list(range(at + 1, len(args)))


def _xreadgroup(args: Args) -> list[int]:
    """XREADGROUP GROUP group consumer [COUNT n] [BLOCK ms] [NOACK] [CLAIM ms] STREAMS key ... id ..."""
    at = next((n for n in range(4, len(args)) if args[n].upper() == b"STREAMS"), len(args))
    return list(range(at + 1, at + 1 + (len(args) - at - 1) // 2))


_BY_NAME: dict[str, Finder] = {
    "SORT": _sort,
    "GEORADIUS": _georadius,
    "MIGRATE": _migrate,
    "XREADGROUP": _xreadgroup,
}

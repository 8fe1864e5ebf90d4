"""The command table as a page for people."""

from collections.abc import Iterable, Iterator

from bisync.core.commands.footprint import EFFECTS
from bisync.core.commands.normal import NORMALISERS
from bisync.core.commands.table import ROWS, Row

_INTRO = """\
# Commands

What bisync knows of each command that can stand in a Redis replication stream. This page is made from the table in
`bisync/core/commands/table.py`; after a change there, make it again with

    .venv/bin/python -c "from bisync.core.commands import document; print(document(), end='')" > docs/commands.md

A stream holds effects, not what clients typed: SPOP arrives as SREM, EXPIRE as PEXPIREAT, a script as its writes. A
command that is not on this page (those of modules are not) stops the job with an error, or is set aside if the job file
says so, because nobody can tell which keys it writes. What happens when two of them meet at one key is in
[conflicts.md](conflicts.md).

**Handling.** *copied*: applied at the other site as it is. *changed*: first brought into the form in the next column,
because it did succeed and its condition must not be asked again. *refused*: never copied, for the reason given.
*control*: part of the stream itself, nothing to copy.

**Keys** gives the words of the command that are keys: `1` the first word after the name, `1 2` the first two, `1..` all
from there on, `1..-1` all but the last, `1../2` every second one, `#2` as many as word 2 says, from the next word on,
`#1/2` the same, each with a value. `SORT`, `GEORADIUS`, `MIGRATE` and `XREADGROUP` have keys behind options.
"""

_FAMILIES = {
    "string": "Strings",
    "hash": "Hashes",
    "list": "Lists",
    "set": "Sets",
    "zset": "Sorted sets",
    "stream": "Streams",
    "vector": "Vector sets",
    "array": "Arrays",
    "keys": "Keys of any type",
    "server": "Databases, functions and messages",
    "control": "The stream itself",
}


def document() -> str:
    """The page `docs/commands.md`, in Markdown."""
    parts = [_INTRO]
    for family, title in _FAMILIES.items():
        parts.append(f"## {title}\n\n{_table(_lines(r for r in ROWS if r.family == family))}")
    used = {row.effect for row in ROWS}
    effects = ((name, effect.text) for name, effect in EFFECTS.items() if name in used)
    parts.append(f"## Effects\n\n{_table([('effect', 'what happens'), *effects])}")
    return "\n".join(parts)


def _lines(rows: Iterable[Row]) -> Iterator[tuple[str, ...]]:
    yield "command", "keys", "effect", "handling", "becomes", "note"
    for row in rows:
        keys = "" if row.keys == "-" else f"`{row.keys}`"
        yield row.name.decode(), keys, row.effect, row.handling, NORMALISERS[row.becomes][1], row.reason


def _table(lines: Iterable[tuple[str, ...]]) -> str:
    head, *rest = lines
    return "".join(f"| {' | '.join(cells)} |\n" for cells in [head, ("---",) * len(head), *rest])

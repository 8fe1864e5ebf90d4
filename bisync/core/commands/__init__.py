"""What a command of a replication stream writes, reads, commutes with, and how it is copied.

One table (`table`) has a row for every command; all questions are answered from it. A command is a tuple of its words
as bytes, the name first and in any case, and stands in a numbered database.

    found = row(args[0])                        # None: unknown, must not be copied
    args = found.normalise(absolute_expiry(args, time_ms))
    args = restrict(args, database, scope)      # None: nothing to copy; Crossing: cannot be copied
    found.footprint(args, database)             # what it writes and reads
"""

from bisync.core.commands.commuting import commute, deletes
from bisync.core.commands.document import document
from bisync.core.commands.expiry import absolute_expiry, expiry_of, late, may_expire, put_off
from bisync.core.commands.keys import Args
from bisync.core.commands.places import EVERY_KEY, FUNCTIONS, TTL, Footprint, Write, same_place
from bisync.core.commands.scope import Crossing, Restricted, ScopeLike, restrict
from bisync.core.commands.table import ROWS, Row, known_row, row

__all__ = [
    "EVERY_KEY",
    "FUNCTIONS",
    "ROWS",
    "TTL",
    "Args",
    "Crossing",
    "Footprint",
    "Restricted",
    "Row",
    "ScopeLike",
    "Write",
    "absolute_expiry",
    "commute",
    "deletes",
    "document",
    "expiry_of",
    "footprint",
    "key_positions",
    "known",
    "known_row",
    "late",
    "may_expire",
    "normalise",
    "put_off",
    "restrict",
    "row",
    "same_place",
]


def known(args: Args) -> bool:
    """Does bisync know this command? The functions below raise KeyError where it does not."""
    return row(args[0]) is not None


def key_positions(args: Args) -> list[int]:
    """The indexes of all keys of a command, written or read. Raises KeyError for an unknown command."""
    return known_row(args[0]).key_positions(args)


def normalise(args: Args) -> Args:
    """The command in its unconditional form: the same object where it is that already.

    Raises KeyError for an unknown command.
    """
    return known_row(args[0]).normalise(args)


def footprint(args: Args, database: int) -> Footprint:
    """What a command writes and reads, run in `database`. Raises KeyError for an unknown command."""
    return known_row(args[0]).footprint(args, database)

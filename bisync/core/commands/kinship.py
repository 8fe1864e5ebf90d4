"""How two commands that touch one key stand to each other, before their arguments are looked at."""

import functools

from bisync.core.commands.commuting import KEEPS_EXPIRY
from bisync.core.commands.table import Row

ALWAYS, BY_ELEMENT, LOOK = "always", "by element", "look"

_FIELDS = "expires fields"


@functools.cache
def relation(p: Row, q: Row) -> str:
    """What holds for every command of the one row and every command of the other, of two that touch one key.

    ALWAYS: they commute whatever their arguments, provided that neither reads what the other writes.
    BY_ELEMENT: so do they where no element is in the footprints of both.
    LOOK: that depends; `commute` knows.
    """
    kinds = frozenset((p.change, q.change))
    if "refused" in (p.handling, q.handling):
        return LOOK
    if "nothing" in kinds or ("functions" in kinds and p is not q):
        return ALWAYS
    if kinds == {"counts"} or ("expires" in kinds and len(kinds) == 2 and kinds - {"expires"} <= KEEPS_EXPIRY):
        return ALWAYS
    if kinds == {"pushes"} and p.name[:1] != q.name[:1]:
        return ALWAYS
    if p.family != q.family:
        return LOOK
    if kinds == {"removes elements"}:
        return ALWAYS
    if kinds == {"adds"} or (_FIELDS in kinds and kinds <= {_FIELDS, "adds", "removes elements"}):
        return BY_ELEMENT
    return LOOK

"""What a command makes of one place: two commands with the same effect on it are alike for any third one."""

from collections.abc import Hashable

from bisync.core.commands.commuting import elements_after, values_after
from bisync.core.commands.keys import Args
from bisync.core.commands.places import TTL, Element
from bisync.core.commands.table import Row


def effect_on(row: Row | None, args: Args, key: bytes, element: Element | None) -> Hashable:
    """What the command does to the key, or to one element of it.

    Equal for two commands of one row only where they do the same there. `row` is None for a copied key, of which there
    is one for each key.
    """
    if row is None:
        return None
    match row.change:
        case "counts":
            return None
        case "pushes":
            return args[2:]
        case "sets bit":
            return args[2:4]
        case "assigns" if element is None:
            values = values_after(row.name, args)
            return args[1:] if values is None else (values.get(key),)
        case "adds" if element is not None:
            after = elements_after(row.name, args).get(element[1])
            return args[1:] if after is None else (after,)
        case "removes elements" if element not in (None, TTL):
            return None
    return args[1:]


def same_outcome(p_row: Row | None, p: Args, q_row: Row | None, q: Args, key: bytes, element: Element | None) -> bool:
    """Do both make the same of a place, whatever it was? Then it is not in doubt between them."""
    if p_row is None or q_row is None or p_row.change != q_row.change:
        return False
    if p_row.change == "assigns" and element is None:
        ours, theirs = values_after(p_row.name, p), values_after(q_row.name, q)
        return ours is not None and theirs is not None and ours.get(key) == theirs.get(key)
    if p_row.change == "adds" and element is not None and p_row.family == q_row.family:
        after = elements_after(p_row.name, p).get(element[1])
        return after is not None and after == elements_after(q_row.name, q).get(element[1])
    return p_row.change == "removes elements" and p_row.family == q_row.family and element is not None

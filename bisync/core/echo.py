"""What a site did of its own accord inside a transaction of ours: it deleted keys that had reached their expiry.

A server deletes such a key when a command comes to it, also when the command is ours. The deletion stands in its stream
within our transaction, though it is the site's own. It is told from what we sent by its name in capitals: bisync sends
deletions in small letters, and a server passes commands on as they were written (seen on Redis 7.0: `shared.del` and
`shared.unlink` of server.c are in capitals; so is what PEXPIREAT and RESTORE become where their time is over).
"""

from collections.abc import Iterable, Iterator

from bisync.core import commands
from bisync.core.operation import Operation
from bisync.core.pending import Pending, Place
from bisync.core.stream import Command, Entry


def deleted_by_server(entry: Entry) -> list[Command]:
    """The deletions in a tagged transaction that bisync did not send; with one key each, as servers write them."""
    return [c for c in entry.commands if c.args[0] in (b"DEL", b"UNLINK") and len(c.args) == 2]


def written_after(entry: Entry) -> dict[int, bool]:
    """For each of those deletions, by its `id`: does a later command of the transaction write the key again?"""
    found: dict[int, bool] = {}
    written: set[Place] = set()
    deletions = {id(command) for command in deleted_by_server(entry)}
    for command in reversed(entry.commands):
        if id(command) in deletions:
            found[id(command)] = (command.database, command.args[1]) in written
        else:
            written.update(_written(command))
    return found


def _written(command: Command) -> Iterator[Place]:
    row = commands.row(command.name)
    if row is not None:
        for write in row.footprint(row.normalise(tuple(command.args)), command.database).writes:
            yield write.database, write.key


def written_by(writes: Iterable[Pending]) -> dict[Place, Pending]:
    """By key: the first of these writes with an operation on it other than its deletion."""
    found: dict[Place, Pending] = {}
    for write in writes:
        for operation in write.operations:
            if not _deletes(operation):
                for place in operation.written:
                    found.setdefault(place, write)
    return found


def _deletes(operation: Operation) -> bool:
    return operation.stale or commands.deletes(operation.args)


_MADE = {b"SET": 1, b"RESTORE": 1, b"RENAME": 2, b"EVAL": 3}
"""The commands that put a copied key in its place, and where each names it."""


def not_copied(entry: Entry, writes: Iterable[Pending]) -> list[tuple[Pending, Place]]:
    """Copied keys with a time to live that did not come about: it was over when the target came to them."""
    mortal = [write for write in writes if any(o.mortal for o in write.operations)]
    if not mortal:
        return []
    made = {(c.database, c.args[_MADE[c.name]]) for c in entry.commands if c.name in _MADE}
    found = ((write, o) for write in mortal for o in write.operations)
    return [(write, place) for write, o in found for place in o.written if (o.target_database, place[1]) not in made]

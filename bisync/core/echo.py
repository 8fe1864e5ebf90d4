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


def written_after(entry: Entry, deletion: Command) -> bool:
    """Does a later command of the transaction write the key that was deleted there?"""
    at = next(n for n, command in enumerate(entry.commands) if command is deletion)
    place = (deletion.database, deletion.args[1])
    return any(place in _written(command) for command in entry.commands[at + 1 :])


def _written(command: Command) -> Iterator[Place]:
    row = commands.row(command.name)
    if row is not None:
        for write in row.footprint(row.normalise(tuple(command.args)), command.database).writes:
            yield write.database, write.key


def write_to(place: Place, writes: Iterable[Pending]) -> Pending | None:
    """The first of these writes with an operation on the key other than its deletion."""
    return next((write for write in writes for o in write.operations if place in o.written and not _deletes(o)), None)


def _deletes(operation: Operation) -> bool:
    return operation.stale or commands.deletes(operation.args)


def not_copied(entry: Entry, writes: Iterable[Pending]) -> list[tuple[Pending, Place]]:
    """Copied keys with a time to live that did not come about: it was over when the target came to them."""
    mortal = [write for write in writes if any(o.mortal for o in write.operations)]
    if not mortal:
        return []
    made = {c.args[1] for c in entry.commands if c.name in (b"SET", b"RESTORE")}
    found = ((write, place) for write in mortal for o in write.operations for place in o.written)
    return [(write, place) for write, place in found if place[1] not in made]

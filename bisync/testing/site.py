"""A simulated site: a Redis 7.0 look-alike in memory, synchronous, for property tests without a server.

Bytes of commands go in, bytes of replies come out, and the replication stream grows, all as a real server would write
it: effects in place of intentions, SELECT where the database changes, MULTI and EXEC around two effects or more. Time
passes only when a test says so, and nothing is random, so a run can be repeated exactly.

    >>> from hiredis import pack_command
    >>> site = SimulatedSite()
    >>> connection = site.connect()
    >>> connection.execute(pack_command(("SET", "k", "v")) + pack_command(("STRLEN", "k"))).split()
    [b'+OK', b':1']
    >>> site.dataset()
    {(0, b'k'): ('string', b'v', None)}

What is simulated, and only that: the commands of `COMMANDS`, transactions with WATCH, lazy expiry, the stream. There
are no replicas, scripts, streams, blocking commands, users or RESP 3. The contract tests run the same commands against
it and against a real server, and compare replies, data and streams. Source: `server.c`, `multi.c`, `replication.c`.
"""

import hashlib
from collections.abc import Callable, Sequence

import hiredis

from bisync.core.rdb.items import String
from bisync.core.rdb.items import Value as Payload
from bisync.core.resp import pack, select
from bisync.testing.dataset import TYPE_NAMES, Dataset, Watcher, canonical
from bisync.testing.simulated.call import Call, Command, Table
from bisync.testing.simulated.hash import COMMANDS as _ON_HASHES
from bisync.testing.simulated.key import COMMANDS as _ON_KEYS
from bisync.testing.simulated.list import COMMANDS as _ON_LISTS
from bisync.testing.simulated.payload import dump, rdb, rdb_type
from bisync.testing.simulated.reply import NIL_ARRAY, OK, QUEUED, CommandError, array, error, wrong_arity
from bisync.testing.simulated.set import COMMANDS as _ON_SETS
from bisync.testing.simulated.sorted_set import COMMANDS as _ON_SORTED_SETS
from bisync.testing.simulated.string import COMMANDS as _ON_STRINGS

COMMANDS = Table(_ON_KEYS | _ON_STRINGS | _ON_LISTS | _ON_SETS | _ON_HASHES | _ON_SORTED_SETS)
"""Every command that is simulated, transactions apart."""

PRIVATE = b"bisync:"
"""What the names of bisync's own keys begin with."""

_START_MS = 1_700_000_000_000  # Unix time; any will do, as long as it does not change from run to run


class SimulatedSite:
    """A server in memory.

    `name` goes into the replication id, so give two sites two names. `now_ms` is the clock (Unix time, milliseconds)
    and may be set. `stream` holds the bytes of the replication stream from the offset `stream_start` on: the byte at
    offset `o`, counted as the server counts, is `stream[o - stream_start]`.

    `refuse`, when set, is an error reply such as `b"-OOM command not allowed"`: every command that may write, and every
    EXEC of a transaction with such a command, is refused with it. (A server that is out of memory refuses only those
    that may need some, but then whatever is to be queued, reads too.)
    """

    def __init__(self, name: str = "site", *, now_ms: int = _START_MS, stream_start: int = 0) -> None:
        self.replid = hashlib.sha1(name.encode(), usedforsecurity=False).hexdigest()  # 40 hex digits
        self.name = name
        self.stream = bytearray()
        self.stream_start = stream_start  # offset in bytes of the first byte kept
        self.refuse: bytes | None = None
        self.data = Dataset(now_ms)
        self._selected = -1  # the database selected at the end of the stream; none at first
        self._connections: dict[SimulatedConnection, None] = {}

    def __repr__(self) -> str:
        refusing = ", refusing writes" if self.refuse else ""
        return f"<SimulatedSite {self.name}: {sum(1 for _ in self.data)} keys, offset {self.offset}{refusing}>"

    @property
    def offset(self) -> int:
        """The end of the stream, in bytes (`master_repl_offset`)."""
        return self.stream_start + len(self.stream)

    @property
    def now_ms(self) -> int:
        """The clock: Unix time in milliseconds. Keys expire by it alone."""
        return self.data.now_ms

    @now_ms.setter
    def now_ms(self, now_ms: int) -> None:
        self.data.now_ms = now_ms

    def connect(self) -> "SimulatedConnection":
        """A new client connection, with database 0 selected."""
        connection = SimulatedConnection(self)
        self._connections[connection] = None
        return connection

    def drop_connections(self) -> None:
        """Close every connection, as a network fault or a restart does."""
        for connection in [*self._connections]:
            connection.close()

    def forget(self, before: int) -> None:
        """Drop the stream up to an offset in bytes, as a backlog does that is too small."""
        before = min(max(before, self.stream_start), self.offset)
        del self.stream[: before - self.stream_start]
        self.stream_start = before

    def expire_keys(self) -> None:
        """Delete all keys that have reached their expiry, as a server's timer does now and then."""
        for database, key, _ in [*self.data]:
            if self.data.is_expired(database, key):
                self.data.expire(database, key)
        for number, args in self._take_effects():
            self._feed(number, args)  # a timer's deletions come one by one

    # -- what is in it
    def dataset(self) -> dict[tuple[int, bytes], tuple[str, object, int | None]]:
        """What clients see: (database, key) to (type, value, Unix time of expiry in milliseconds or None).

        Two sites are equal when these are. Values are bytes, tuples, frozensets and dicts. bisync's own keys are left
        out, and so are keys that have expired but were not deleted.
        """
        return {
            (database.number, key): (TYPE_NAMES[type(value)], canonical(value), database.expires.get(key))
            for database, key, value in self.data
            if not key.startswith(PRIVATE) and not self.data.is_expired(database, key)
        }

    def snapshot(self) -> list[String | Payload]:
        """Every key, bisync's own included, as the RDB reader of the core hands them out.

        As after a server's full sync, the stream selects its database anew from here on.
        """
        self._selected = -1
        return [
            (
                String(database.number, key, database.expires.get(key), value)
                if isinstance(value, bytes)
                else Payload(database.number, key, rdb_type(value), database.expires.get(key), dump(value))
            )
            for database, key, value in self.data
        ]

    def rdb(self) -> bytes:
        """The same as an RDB file that a real server can load. The stream selects its database anew after it."""
        self._selected = -1
        return rdb(self.data)

    # -- the stream
    def _take_effects(self) -> "list[tuple[int, Sequence[bytes]]]":
        effects, self.data.effects = self.data.effects, []
        return effects

    def _propagate(self) -> None:
        """Write the effects of one command, or of one transaction, into the stream."""
        if not self.data.effects:
            return
        effects = self._take_effects()
        if len(effects) > 1:  # the SELECT for the first comes before the MULTI
            effects = [(effects[0][0], (b"MULTI",)), *effects, (effects[-1][0], (b"EXEC",))]
        for number, args in effects:
            self._feed(number, args)

    def _feed(self, database: int, args: Sequence[bytes]) -> None:
        if database != self._selected:
            self.stream += select(database)
            self._selected = database
        self.stream += pack(*args)


class SimulatedConnection:
    """A client connection to a simulated site: its selected database, its transaction and what it watches."""

    def __init__(self, site: SimulatedSite) -> None:
        self.site = site
        self.closed = False
        self._parser = hiredis.Reader()
        self._call = Call(site.data)
        self._queue: list[tuple[Command, Sequence[bytes]]] | None = None  # since MULTI
        self._abort = False  # was a command refused since MULTI?
        self._watcher = Watcher()

    def __repr__(self) -> str:
        state = "closed" if self.closed else f"database {self._call.database.number}"
        queued = "" if self._queue is None else f", {len(self._queue)} queued"
        return f"<SimulatedConnection to {self.site.name}: {state}{queued}>"

    def execute(self, data: bytes) -> bytes:
        """Carry out the commands that these bytes complete, and return their replies; an incomplete one is kept.

        Bytes that are no commands are answered with an error, and close the connection. Raises ConnectionError when
        it is closed.
        """
        if self.closed:
            raise ConnectionError(f"the connection to {self.site.name} is closed")
        replies = []
        try:
            self._parser.feed(data)
            while (args := self._parser.gets()) is not False:
                if type(args) is not list or not all(type(a) is bytes for a in args):
                    raise hiredis.ProtocolError("expected an array of bulk strings")
                if args:
                    replies.append(self._reply(args))
        except hiredis.ProtocolError as e:
            replies.append(error(b"ERR Protocol error: %s" % str(e).encode()))
            self.close()
        return b"".join(replies)

    def close(self) -> None:
        """End the connection. A transaction that is not executed is forgotten."""
        self._discard()
        self.closed = True
        self.site._connections.pop(self, None)

    # -- one command (`processCommand`)
    def _reply(self, args: Sequence[bytes]) -> bytes:
        name = args[0].upper()
        command = _TRANSACTIONS.get(name) or COMMANDS.get(name)
        refusal = self._refusal(command, args)
        if refusal is not None:
            return self._refused(name, refusal)
        assert command is not None
        if self._queue is not None and name not in _NEVER_QUEUED:
            self._queue.append((command, args))
            return QUEUED
        reply = self._run(command, args)
        self.site._propagate()
        return reply

    def _refusal(self, command: Command | None, args: Sequence[bytes]) -> bytes | None:
        """Why the command is not even tried, as an error without its minus sign."""
        if command is None:
            words = b"".join(b"'%s' " % a[:128] for a in args[1:])[:128]
            return b"ERR unknown command '%s', with args beginning with: %s" % (args[0][:128], words)
        if not command.takes(len(args)):
            return wrong_arity(command.name).text
        if self.site.refuse:
            queued = self._queue if command.name == b"EXEC" and self._queue else ()
            text = self.site.refuse.removeprefix(b"-").rstrip(b"\r\n")
            filling = text.startswith(b"OOM ") and self._queue is not None and command.name not in _NEVER_QUEUED
            if command.write or filling or any(c.write for c, _ in queued):  # a queue takes memory, reads or not
                return text
        return None

    def _refused(self, name: bytes, text: bytes) -> bytes:
        if name == b"EXEC":
            self._discard()
            return error(b"EXECABORT Transaction discarded because of: " + text.removeprefix(b"ERR "))
        self._abort = self._queue is not None
        return error(text)

    def _run(self, command: Command, args: Sequence[bytes]) -> bytes:
        """Carry out one command and note its effect."""
        call = self._call
        call.args, call.dirty, call.rewritten = args, False, None
        try:
            control = _CONTROL.get(command.name)
            reply = control(self) if control else command.run(call)
        except CommandError as e:
            return error(e.text)
        if call.dirty:
            call.data.effects.append((call.database.number, call.rewritten or args))
        return reply

    # -- transactions (`multi.c`)
    def _discard(self) -> None:
        self._queue, self._abort = None, False
        self._watcher.unwatch(self.site.data)

    def _multi(self) -> bytes:
        if self._queue is not None:
            raise CommandError(b"ERR MULTI calls can not be nested")
        self._queue = []
        return OK

    def _discard_command(self) -> bytes:
        if self._queue is None:
            raise CommandError(b"ERR DISCARD without MULTI")
        self._discard()
        return OK

    def _watch(self) -> bytes:
        if self._queue is not None:
            raise CommandError(b"ERR WATCH inside MULTI is not allowed")
        for key in self._call.args[1:]:
            self._watcher.watch(self.site.data, self._call.database, key)
        return OK

    def _unwatch(self) -> bytes:
        self._watcher.unwatch(self.site.data)
        return OK

    def _exec(self) -> bytes:
        if self._queue is None:
            raise CommandError(b"ERR EXEC without MULTI")
        queue, abort = self._queue, self._abort
        touched = self._watcher.touched or self._watcher.saw_expiry(self.site.data)
        self._discard()
        if abort:
            raise CommandError(b"EXECABORT Transaction discarded because of previous errors.")
        if touched:
            return NIL_ARRAY
        replies = [self._run(command, args) for command, args in queue]
        self._call.dirty = False  # the commands have noted their effects themselves
        return array(replies)


_CONTROL: dict[bytes, Callable[[SimulatedConnection], bytes]] = {
    b"MULTI": SimulatedConnection._multi,
    b"EXEC": SimulatedConnection._exec,
    b"DISCARD": SimulatedConnection._discard_command,
    b"WATCH": SimulatedConnection._watch,
    b"UNWATCH": SimulatedConnection._unwatch,
}
_TRANSACTIONS = {
    name: Command(name, -2 if name == b"WATCH" else 1, False, lambda call: OK)  # `_CONTROL` has what they do
    for name in _CONTROL
}
_NEVER_QUEUED = frozenset(_CONTROL) - {b"UNWATCH"}

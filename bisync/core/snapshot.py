"""From the bytes of a snapshot to the commands that put its keys at the target.

Keys are put so that a repetition does no harm: whatever the target holds is replaced.
"""

from collections.abc import Iterator, Sequence

import attrs

from bisync.core.copying import CopiedKey, CopiedKeys, KeyPiece
from bisync.core.dialect import Words, spoken
from bisync.core.key_names import KeyNames
from bisync.core.link import Part
from bisync.core.putting import Building, Unknown, put
from bisync.core.rdb import Function, Item, RdbReader, String, Value, ValueBegins, ValueEnds, ValuePiece
from bisync.core.resp import pack
from bisync.core.rules import Rules
from bisync.core.server import Server
from bisync.core.tag import building_key

KEYS_MAX, KEYS_BYTES = 100, 1 << 16
"""So many whole keys, and about so many bytes, are handed on as one."""

_WHOLE = (String, Value)


@attrs.define
class SnapshotKeys:
    """Makes the copied keys of RDB bytes, and remembers which keys there were if asked to."""

    rules: Rules
    names: KeyNames | None  # takes their names; None: the target held no keys before, so none of them can be stale
    bytes_done: int = 0
    keys_done: int = 0
    _server: Server = attrs.field(init=False)
    _reader: RdbReader = attrs.field(init=False)
    _building: Building | None = None  # the key in pieces that is under way, if it is in scope
    _first: list[Words] = attrs.field(factory=list)  # its first piece, kept back: it may be all
    _numbers: int = 0  # of keys in pieces

    def __attrs_post_init__(self) -> None:
        self._server = self.rules.server(self.rules.target)
        self._reader = RdbReader(
            whole_bytes=self.rules.whole_bytes,
            piece_bytes=self.rules.piece_bytes,
            payload_version=self._server.payload_version,
        )

    def feed(self, data: bytes, now_ms: int) -> Iterator[CopiedKeys | CopiedKey | KeyPiece]:
        """The keys that these bytes complete and that are in scope. Take all of them. Raises RdbError."""
        self.bytes_done += len(data)
        many, server = CopiedKeys(), self._server
        database = home = -1
        for item in self._reader.items(data):
            if isinstance(item, _WHOLE):
                if self._takes(item):
                    if item.database != database:
                        database, home = item.database, self._database(item.database)
                    many.add(database, item.key, item.expires_at_ms is not None, put(item, home, now_ms, server))
                    if len(many.parts) >= KEYS_MAX or many.size >= KEYS_BYTES:
                        yield many
                        many = CopiedKeys()
            else:
                if many.parts:
                    yield many
                    many = CopiedKeys()
                yield from self.copied(item, now_ms)
        if many.parts:
            yield many

    def close(self) -> None:
        """All bytes were fed. Raises RdbError where the RDB is not whole."""
        self._reader.close()

    def copied(self, item: Item, now_ms: int) -> Iterator[CopiedKey | KeyPiece]:
        """The key, or a piece of one, that an item of a snapshot is, if it is one and in scope."""
        match item:
            case Value() | String():
                if self._takes(item):
                    part = put(item, self._database(item.database), now_ms, self._server)
                    yield CopiedKey(item.database, item.key, [part], mortal=item.expires_at_ms is not None)
            case ValueBegins():
                self._numbers += 1
                under = building_key(self.rules.job)
                self._building = Building(item, under, self._server) if self._takes(item) else None
                self._first = []
            case ValuePiece():
                if self._building is not None:
                    yield from self._piece(self._building, item, now_ms)
            case ValueEnds():
                if self._building is not None:
                    yield self._end(self._building, now_ms)
                    self._building = None
            case Function():
                if self.rules.actions.get("function", "pass") == "pass":
                    yield CopiedKey(0, None, [(0, pack(b"FUNCTION", b"LOAD", b"REPLACE", item.payload))])

    def _takes(self, item: Value | String | ValueBegins) -> bool:
        if not self.rules.scope.holds(item.database, item.key):
            return False
        self.keys_done += 1
        if self.names is not None:
            self.names.add(item.database, item.key)
        return True

    def _database(self, database: int) -> int:
        return self.rules.database_at(self.rules.target, database)

    def _piece(self, building: Building, item: ValuePiece, now_ms: int) -> Iterator[CopiedKey | KeyPiece]:
        """The first piece is kept back: where it is the only one, the key needs no other name."""
        begun = building.begun
        try:
            words = building.add(item.elements, now_ms)
        except Unknown as e:
            self._building = None
            yield CopiedKey(building.item.database, building.item.key, [], refused=str(e))
            return
        if not begun:
            self._first = words
            return
        if self._first:
            yield KeyPiece(self._parts(building, self._first), self._numbers)
            self._first = []
        yield KeyPiece(self._parts(building, words), self._numbers)

    def _end(self, building: Building, now_ms: int) -> CopiedKey:
        parts = self._parts(building, [*self._first, *building.end(now_ms)])
        key, mortal = building.item, building.item.expires_at_ms is not None
        # what is made with one transaction cannot be touched meanwhile
        length = None if self._first or building.mortal else building.length
        return CopiedKey(key.database, key.key, parts, mortal=mortal, building=self._numbers, length=length)

    def _parts(self, building: Building, words: Sequence[Words]) -> list[Part]:
        database = self._database(building.item.database)
        return [(database, pack(*some)) for some in words]

    def stale(self, database: int, key: bytes) -> CopiedKey | None:
        """The removal of a key that the target has (database as the source numbers it) and the snapshot has not.

        To be asked once all of the snapshot was fed, and only where there are `names`.
        """
        assert self.names is not None
        if not self.rules.scope.holds(database, key) or self.names.holds(database, key):
            return None
        parts = [(self._database(database), pack(*spoken((b"UNLINK", key), self._server)))]
        return CopiedKey(database, key, parts, stale=True)

"""The reader itself: header, opcodes, keys, checksum."""

from struct import Struct
from struct import error as StructError
from typing import Final

from bisync.core.rdb import layouts
from bisync.core.rdb.items import Aux, DatabaseSize, End, Function, Item, String, Value
from bisync.core.rdb.payload import dump_payload
from bisync.core.rdb.window import MAX_VALUE_BYTES, Waits, Window
from bisync.errors import RdbError

OLDEST_VERSION: Final = 6  # Redis 2.6 and 2.8
NEWEST_VERSION: Final = 12  # Redis 7.4 and 8.0

_SLOT_INFO, _FUNCTION, _FUNCTION_PRE_GA, _MODULE_AUX = 244, 245, 246, 247
_IDLE, _FREQ, _AUX, _RESIZEDB = 248, 249, 250, 251
_EXPIRETIME_MS, _EXPIRETIME, _SELECTDB, _EOF = 252, 253, 254, 255

_HEADER_BYTES = 9  # REDIS and four digits
_milliseconds = Struct("<q").unpack_from


class RdbReader:
    """Reads one RDB. Give it bytes with `feed`, in pieces of any size, and take the items.

    `max_value_bytes` bounds one value (and with it the memory); a larger one, or one that claims to be, is an
    RdbError. At least 64 KiB; if in doubt leave it alone.

    After an RdbError the reader is done: every further call raises the same error.
    """

    def __init__(self, *, max_value_bytes: int = MAX_VALUE_BYTES) -> None:
        self.version = 0  # RDB version; 0 until the header is read
        self.finished = False  # the RDB is complete and `End` was handed out
        self.leftover = b""  # bytes that were fed after the end of the RDB; what to do with them is up to the caller
        self._window = Window(max_value_bytes)
        self._items: list[Item] = []  # of the piece under way; a new list each time, so look it up after each wait
        self._database = 0
        self._expires_at_ms: int | None = None  # of the key to come
        self._error: RdbError | None = None
        self._steps = self._read()

    def __repr__(self) -> str:
        state = "failed" if self._error else "finished" if self.finished else "reading"
        return f"<RdbReader version {self.version}, {state} at byte {self.offset}>"

    @property
    def offset(self) -> int:
        """How many bytes of the RDB were read, from its start and without `leftover`."""
        return self._window.offset

    def feed(self, data: bytes) -> list[Item]:
        """The items that these bytes complete, in the order of the file. After the end, bytes go to `leftover`.

        Raises RdbError where the bytes are no RDB that this reader knows, or the checksum is wrong. Items of the
        same piece before the damage are lost then.
        """
        if self._error:
            raise self._error
        if self.finished:
            self.leftover += data
            return []
        self._items = []
        try:
            self._window.extend(data)
            next(self._steps)
        except StopIteration:
            self.finished = True
            self.leftover = self._window.data[self._window.pos :]
        except RdbError as e:
            self._error = e
            raise
        return self._items

    def close(self) -> None:
        """Say that no more bytes come. Raises RdbError where the RDB is not complete."""
        if self._error:
            raise self._error
        if not self.finished:
            self._error = RdbError(
                "the RDB breaks off",
                offset=self._window.base + len(self._window.data),
                why="the connection was lost or the file is truncated",
                hint="take a new snapshot",
            )
            raise self._error

    def _read(self) -> Waits[None]:
        window = self._window
        yield from self._read_header()
        while True:
            self._read_small_keys()
            opcode = yield from window.byte()
            if opcode == _EOF:
                break
            if opcode == layouts.STRING or opcode in layouts.LAYOUTS:
                yield from self._read_key(opcode)
            elif opcode in (_EXPIRETIME_MS, _EXPIRETIME, _IDLE, _FREQ):
                yield from self._read_key_property(opcode)
            elif opcode in (_SLOT_INFO, _FUNCTION, _MODULE_AUX, _AUX, _RESIZEDB, _SELECTDB):
                yield from self._read_section(opcode)
            else:
                raise self._unknown(opcode)
        yield from self._read_checksum()

    def _read_header(self) -> Waits[None]:
        header = yield from self._window.take(_HEADER_BYTES)
        if header.startswith(b"VALKEY"):
            raise RdbError(
                f"an RDB of Valkey ({header.decode('ascii', 'replace')})",
                offset=0,
                why="Valkey 9 and newer write a format of their own, which is not supported as a source yet",
                hint="use a source of Valkey 8 or older or of Redis, or make this site the target of a one-way job",
            )
        if not header.startswith(b"REDIS") or not header[5:].isdigit():
            raise RdbError("no RDB", offset=0, why=f"it starts with {header!r}", hint="is this a Redis server?")
        self.version = int(header[5:])
        if not OLDEST_VERSION <= self.version <= NEWEST_VERSION:
            raise RdbError(
                f"an RDB of version {self.version}",
                offset=0,
                why=f"versions {OLDEST_VERSION} to {NEWEST_VERSION} (Redis 2.6 to 8.0) are supported",
                hint="use a source of such a version",
            )

    def _read_small_keys(self) -> None:
        """Take keys as long as they are plain and lie whole in memory: the bulk of most files, several times faster.

        Stops before the first that is otherwise; the general way goes on there. It must not change what comes out.
        """
        window, append, blobs, version = self._window, self._items.append, layouts.BLOBS, self.version
        data, pos, database = window.data, window.pos, self._database
        begin, end, expires = pos, len(data), self._expires_at_ms
        try:
            while True:
                kind = data[pos]
                if kind == _EXPIRETIME_MS:
                    kind = data[pos + 9]
                    expires = _milliseconds(data, pos + 1)[0]
                    pos += 9
                if kind and kind not in blobs:
                    break
                start, size = pos + 2, data[pos + 1]
                if size >= 0x40:
                    if size >= 0x80:
                        break
                    size = (size & 0x3F) << 8 | data[start]
                    start += 1
                pos = start + size
                key = data[start:pos]
                start, size = pos + 1, data[pos]
                if size >= 0x40:
                    if size >= 0x80:
                        if kind or not 0xC0 <= size <= 0xC2:
                            break
                        pos = start + (1 << (size & 3))
                        number = b"%d" % int.from_bytes(data[start:pos], "little", signed=True)
                        if pos > end:
                            break
                        append(String(database, key, expires, number))
                        window.pos, expires = pos, None
                        continue
                    size = (size & 0x3F) << 8 | data[start]
                    start += 1
                body, pos = pos, start + size
                if pos > end:
                    break
                if kind:
                    append(Value(database, key, kind, expires, dump_payload(kind, data[body:pos], version)))
                else:
                    append(String(database, key, expires, data[start:pos]))
                window.pos, expires = pos, None
        except (IndexError, StructError):
            pass  # the piece ends within this key
        if window.pos > begin:
            self._expires_at_ms = None

    def _read_key_property(self, opcode: int) -> Waits[None]:
        window = self._window
        if opcode == _EXPIRETIME_MS:
            self._expires_at_ms = int.from_bytes((yield from window.take(8)), "little", signed=True)
        elif opcode == _EXPIRETIME:
            self._expires_at_ms = int.from_bytes((yield from window.take(4)), "little", signed=True) * 1000
        elif opcode == _IDLE:
            yield from window.length()
        else:  # _FREQ
            yield from window.byte()

    def _read_key(self, type: int) -> Waits[None]:
        window = self._window
        key = yield from window.string()
        expires, self._expires_at_ms = self._expires_at_ms, None
        if type == layouts.STRING:
            value = yield from window.string()
            self._items.append(String(self._database, key, expires, value))
            return
        window.keep()
        yield from layouts.LAYOUTS[type](window)
        body = yield from window.kept()
        self._items.append(Value(self._database, key, type, expires, dump_payload(type, body, self.version)))

    def _read_section(self, opcode: int) -> Waits[None]:
        window = self._window
        if opcode == _AUX:
            name = yield from window.string()
            value = yield from window.string()
            self._items.append(Aux(name, value))
        elif opcode == _SELECTDB:
            self._database = yield from window.count()
        elif opcode == _RESIZEDB:
            keys = yield from window.length()
            expires = yield from window.length()
            self._items.append(DatabaseSize(self._database, keys, expires))
        elif opcode == _FUNCTION:
            code = yield from window.string()
            self._items.append(Function(code))
        elif opcode == _SLOT_INFO:
            yield from window.lengths(3)
        else:  # _MODULE_AUX: the module, and as a part when to load it
            yield from window.lengths(3)
            yield from layouts.module_parts(window)

    def _read_checksum(self) -> Waits[None]:
        computed = self._window.checksum()
        stored = int.from_bytes((yield from self._window.take(8)), "little")
        if stored not in (0, computed):
            raise self._window.error(
                "the checksum of the RDB is wrong",
                why=f"it is {computed:016x} by the bytes and {stored:016x} by its end",
                hint="the bytes were changed on the way or on disk: take a new snapshot",
            )
        self._items.append(End(checksum_verified=stored != 0))

    def _unknown(self, opcode: int) -> RdbError:
        if opcode == layouts.MODULE_PRE_GA:
            return self._window.error("a module's value in the format of Redis 4.0 before its release")
        if opcode == _FUNCTION_PRE_GA:
            return self._window.error("functions in the format of Redis 7.0 before its release")
        return self._window.error(
            f"an unknown type or opcode {opcode}",
            why="the file is damaged, or of a newer or changed server",
            hint="take a new snapshot; if it happens again, this server is not supported as a source",
        )

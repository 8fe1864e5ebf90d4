"""The reader itself: header, opcodes, keys, checksum."""

from collections.abc import Iterator
from typing import Final

from bisync.core.rdb import layouts
from bisync.core.rdb.decode import decoders, pieces
from bisync.core.rdb.elements import Kind
from bisync.core.rdb.encoding import LZF, RAW
from bisync.core.rdb.items import (
    Aux,
    DatabaseSize,
    End,
    Function,
    Item,
    String,
    Value,
    ValueBegins,
    ValueEnds,
    ValuePiece,
)
from bisync.core.rdb.payload import dump_payload
from bisync.core.rdb.small import SmallKeys
from bisync.core.rdb.templates import WITH_FIELDS, HashTemplates
from bisync.core.rdb.window import MAX_VALUE_BYTES, Waits, Window
from bisync.errors import RdbError

OLDEST_VERSION: Final = 6  # Redis 2.6 and 2.8
NEWEST_VERSION: Final = 15  # Redis 8.10
NEWEST_VALKEY_VERSION: Final = 80  # Valkey 9.0 and 9.1
PIECE_BYTES: Final = 256 * 1024

_HASH_TEMPLATE, _KEY_META, _SLOT_IMPORT = 242, 243, 243  # 243: of Redis, of Valkey
_SLOT_INFO, _FUNCTION, _FUNCTION_PRE_GA, _MODULE_AUX = 244, 245, 246, 247
_IDLE, _FREQ, _AUX, _RESIZEDB = 248, 249, 250, 251
_EXPIRETIME_MS, _EXPIRETIME, _SELECTDB, _EOF = 252, 253, 254, 255
_PROPERTIES: Final = frozenset((_EXPIRETIME_MS, _EXPIRETIME, _IDLE, _FREQ))
_SECTIONS: Final = frozenset((_SLOT_INFO, _FUNCTION, _MODULE_AUX, _AUX, _RESIZEDB, _SELECTDB))

_HEADER_BYTES = 9  # REDIS and four digits, or VALKEY and three


class RdbReader:
    """Reads one RDB. Give it bytes with `feed` or `items`, in pieces of any size, and take the items.

    `whole_bytes` (None: no limit): a value that takes more bytes in the RDB comes decoded, between `ValueBegins` and
    `ValueEnds`, in pieces of about `piece_bytes` of elements (an element is never cut, but for strings). Other values
    come as `Value` or `String`. Only values of modules always come whole.

    `payload_version` is the newest RDB version that the target's RESTORE knows (None: that of this RDB). Payloads are
    made for it; values of types it does not know come decoded, whatever their size.

    `max_value_bytes` bounds what is kept as one (and with it the memory): a module's value, an element. One that is
    larger, or claims to be, is an RdbError. At least 64 KiB; if in doubt leave it alone.

    After an RdbError the reader is done: every further call raises the same error.
    """

    def __init__(
        self,
        *,
        whole_bytes: int | None = None,
        piece_bytes: int = PIECE_BYTES,
        payload_version: int | None = None,
        max_value_bytes: int = MAX_VALUE_BYTES,
    ) -> None:
        self.version = 0  # RDB version, from 80 on Valkey's; 0 until the header is read
        self.finished = False  # the RDB is complete and `End` was handed out
        self.leftover = b""  # bytes that were fed after the end of the RDB; what to do with them is up to the caller
        self._window = Window(max_value_bytes)
        self._whole_bytes = max_value_bytes if whole_bytes is None else min(whole_bytes, max_value_bytes)
        self._piece_bytes = piece_bytes
        self._target_version = payload_version
        self._layouts = layouts.REDIS
        self._ready: list[Item] = []  # a new list each time, so look it up after each wait
        self._pausing = False  # there are items to hand out before more bytes are needed
        self._database = 0
        self._expires_at_ms: int | None = None  # of the key to come
        self._metadata = b""  # of the key to come
        self._templates = HashTemplates(self._window)
        self._small = SmallKeys(self._window, self._whole_bytes)
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
        return list(self.items(data))

    def items(self, data: bytes) -> Iterator[Item]:
        """The same as `feed`, but values in pieces are decoded as they are taken. Take all before the next call.

        A compressed value may have 88 times the bytes that were fed; this way only a piece of it is in memory. Items
        before damage are handed out, then RdbError is raised.
        """
        if self._error:
            raise self._error
        if self.finished:
            self.leftover += data
            return
        error = None
        try:
            self._window.extend(data)
        except RdbError as e:
            self._error = e
            raise
        self._pausing = True
        while self._pausing:
            self._pausing = False
            try:
                next(self._steps)
            except StopIteration:
                self.finished = True
                self.leftover = self._window.data[self._window.pos :]
            except RdbError as e:
                error = self._error = e
            ready, self._ready = self._ready, []
            yield from ready
        if error is not None:
            raise error

    def close(self) -> None:
        """Say that no more bytes come. Raises RdbError where the RDB is not complete."""
        if self._error:
            raise self._error
        if not self.finished:
            self._error = RdbError(
                "the RDB breaks off",
                offset=self._window.end,
                why="the connection was lost or the file is truncated",
                hint="take a new snapshot",
            )
            raise self._error

    def _read(self) -> Waits[None]:
        window = self._window
        yield from self._read_header()
        valkey = self.version >= layouts.OLDEST_VALKEY_VERSION
        while True:
            if not self._metadata:
                self._expires_at_ms = self._small.take(self._ready, self._database, self._expires_at_ms)
            opcode = yield from window.byte()
            if opcode == _EOF:
                break
            if opcode == layouts.STRING:
                yield from self._read_string()
            elif opcode in self._layouts or opcode in WITH_FIELDS.values() and not valkey:
                yield from self._read_key(opcode)
            elif opcode in _PROPERTIES:
                yield from self._read_key_property(opcode)
            elif opcode in _SECTIONS:
                yield from self._read_section(opcode)
            elif opcode == _SLOT_IMPORT and valkey:
                yield from self._skip_slot_import()
            elif opcode == _KEY_META:
                yield from self._read_key_metadata()
            elif opcode == _HASH_TEMPLATE and not valkey:
                yield from self._templates.read()
            else:
                raise self._unknown(opcode)
        yield from self._read_checksum()

    def _read_header(self) -> Waits[None]:
        header = yield from self._window.take(_HEADER_BYTES)
        word = b"VALKEY" if header.startswith(b"VALKEY") else b"REDIS"
        digits = header[len(word) :]
        if not header.startswith(word) or not digits.isdigit():
            raise RdbError("no RDB", offset=0, why=f"it starts with {header!r}", hint="is this a Redis server?")
        self.version = int(digits)
        valkey = word == b"VALKEY"
        least = layouts.OLDEST_VALKEY_VERSION if valkey else OLDEST_VERSION
        newest = NEWEST_VALKEY_VERSION if valkey else NEWEST_VERSION
        if not least <= self.version <= newest:
            raise RdbError(
                f"an RDB of version {self.version}" + (" of Valkey" if valkey else ""),
                offset=0,
                why=f"versions {OLDEST_VERSION} to {NEWEST_VERSION} (Redis 2.6 to 8.10) and Valkey's"
                f" {NEWEST_VALKEY_VERSION} (Valkey 9) are supported",
                hint="use a source of such a version",
            )
        if valkey:
            self._layouts = layouts.VALKEY
        if self._target_version is None:
            self._target_version = self.version
        self._small.begin(self.version, self._target_version)

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

    def _read_key_metadata(self) -> Waits[None]:
        self._window.keep()
        yield from layouts.key_metadata(self._window)
        self._metadata = bytes((_KEY_META,)) + (yield from self._window.kept())

    def _read_string(self) -> Waits[None]:
        """A string: plain as it is, compressed as a payload, which is many times faster than to decompress it."""
        window = self._window
        key = yield from window.string()
        window.subject = key, layouts.STRING
        version = self._version_of(layouts.STRING)
        window.keep()
        encoding, size, _ = yield from window.string_header()
        if version is None or (encoding in (RAW, LZF) and size > self._whole_bytes):
            window.rewind()
            yield from self._read_pieces(key, layouts.STRING)
        elif encoding == LZF or self._metadata:
            window.skip(size)
            body = yield from window.kept()
            self._hand_out(key, layouts.STRING, body, version)
        else:
            window.rewind()
            value = yield from window.string()
            self._ready.append(String(self._database, key, self._expires_at_ms, value))
        self._end_key()

    def _read_key(self, type: int) -> Waits[None]:
        window = self._window
        key = yield from window.string()
        window.subject = key, type
        version = self._version_of(WITH_FIELDS.get(type, type))
        if type not in self._layouts or (version is None and type in decoders(self.version)):
            yield from self._read_pieces(key, type)
        else:
            window.keep()
            if (yield from self._walk(type)):
                body = yield from window.kept()
                self._hand_out(key, type, body, version or self.version)
            else:
                window.rewind()
                yield from self._read_pieces(key, type)
        self._end_key()

    def _walk(self, type: int) -> Waits[bool]:
        """Find the end of a value that is being kept. False, as soon as it is known, where it is too big for that."""
        window, may_be_cut = self._window, type in decoders(self.version)
        for _ in self._layouts[type](window):
            if may_be_cut and window.kept_bytes > self._whole_bytes:
                return False
            yield
        return not may_be_cut or window.kept_bytes <= self._whole_bytes

    def _read_pieces(self, key: bytes, type: int) -> Waits[None]:
        kind: Kind = layouts.KINDS[type]
        at = self._expires_at_ms
        self._ready.append(ValueBegins(self._database, key, type, at, kind, self._metadata))
        for elements in pieces(self._window, type, self.version, self._piece_bytes):
            if elements is not None:
                self._ready.append(ValuePiece(kind, elements))
                self._pausing = True
            yield
        self._ready.append(ValueEnds(self._database, key))

    def _hand_out(self, key: bytes, type: int, body: bytes, version: int) -> None:
        if type in WITH_FIELDS:
            body, type = self._templates.completed(type, body), WITH_FIELDS[type]
        payload = dump_payload(type, body, version, self._metadata)
        self._ready.append(Value(self._database, key, type, self._expires_at_ms, payload))

    def _end_key(self) -> None:
        self._expires_at_ms, self._metadata, self._window.subject = None, b"", None

    def _version_of(self, type: int) -> int | None:
        """The version to put under a payload of a type; None where the target does not know it."""
        assert self._target_version is not None
        version = layouts.payload_version(type, self.version, self._target_version)
        return None if self._metadata and version != self.version else version

    def _skip_slot_import(self) -> Waits[None]:
        """What a cluster of Valkey 9 notes about slots that are being moved (`clusterRDBSaveSlotImports`)."""
        window = self._window
        yield from window.strings(1)
        ranges = yield from window.count()
        yield from window.lengths(2 * ranges)

    def _read_section(self, opcode: int) -> Waits[None]:
        window = self._window
        if opcode == _AUX:
            name = yield from window.string()
            value = yield from window.string()
            self._ready.append(Aux(name, value))
        elif opcode == _SELECTDB:
            self._database = yield from window.count()
        elif opcode == _RESIZEDB:
            keys = yield from window.length()
            expires = yield from window.length()
            self._ready.append(DatabaseSize(self._database, keys, expires))
        elif opcode == _FUNCTION:
            code = yield from window.string()
            self._ready.append(Function(code))
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
        self._ready.append(End(checksum_verified=stored != 0))

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

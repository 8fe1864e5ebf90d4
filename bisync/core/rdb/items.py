"""What an RDB holds, as the reader hands it out. Keys and values are binary; times are Unix times in milliseconds.

Treat them as values: nothing changes them. (They are not frozen, as that makes each take three times as long to build.)
"""

from typing import TypeAlias

import attrs

from bisync.core.rdb.elements import Element, Kind

_SHOWN = 40


def _shortened(content: bytes) -> str:
    """For reprs: a value may have gigabytes."""
    return repr(content) if len(content) <= _SHOWN else f"{content[:_SHOWN]!r}+{len(content) - _SHOWN} bytes"


def _counted(elements: list[Element]) -> str:
    return f"{len(elements)} elements"


@attrs.define
class Aux:
    """A remark of the server about itself, such as `redis-ver`. Servers may add names at will: ignore unknown ones.

    Redis 6.2 and older also keep the scripts that clients loaded here, one `lua` each.
    """

    name: bytes
    value: bytes  # numbers come as decimal text


@attrs.define
class DatabaseSize:
    """How many keys the server says are to follow for a database. A hint for progress, not a promise."""

    database: int  # its number
    keys: int  # number of keys
    expires: int  # how many of them have a time to live


@attrs.define
class Value:
    """A key that is to be written with `RESTORE key 0 payload`: of any type but string, or a compressed string."""

    database: int  # its number
    key: bytes
    type: int  # RDB type byte, see `layouts`
    expires_at_ms: int | None  # Unix time in milliseconds; None: never. It may be in the past
    payload: bytes = attrs.field(repr=_shortened)  # as DUMP makes it, with version and checksum


@attrs.define
class String:
    """A string key, to be written with SET, which is faster than RESTORE."""

    database: int  # its number
    key: bytes
    expires_at_ms: int | None  # Unix time in milliseconds; None: never. It may be in the past
    value: bytes = attrs.field(repr=_shortened)  # as GET returns it


@attrs.define
class ValueBegins:
    """A key whose value follows decoded, in `ValuePiece`s up to `ValueEnds`, with no other item in between.

    It is too big to be handed out whole, or of a type that the target's RESTORE does not know.
    """

    database: int  # its number
    key: bytes
    type: int  # RDB type byte, see `layouts`
    expires_at_ms: int | None  # Unix time in milliseconds; None: never. It may be in the past
    kind: Kind
    metadata: bytes = attrs.field(
        default=b"", repr=_shortened
    )  # what modules attached to the key; only RESTORE sets it


@attrs.define
class ValuePiece:
    """Some of the elements of the value that began last, in the order of the file; see `elements`."""

    kind: Kind
    elements: list[Element] = attrs.field(repr=_counted)


@attrs.define
class ValueEnds:
    """The value that began last is complete."""

    database: int  # its number
    key: bytes


@attrs.define
class Function:
    """A library of functions. It belongs to the server, not to a database."""

    payload: bytes = attrs.field(repr=_shortened)  # the source code, for FUNCTION LOAD REPLACE


@attrs.define
class End:
    """The RDB is complete. Always the last item."""

    checksum_verified: bool  # False: the server wrote none (`rdbchecksum no`)


Item: TypeAlias = Aux | DatabaseSize | Value | String | ValueBegins | ValuePiece | ValueEnds | Function | End

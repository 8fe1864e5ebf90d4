"""What an RDB holds, as the reader hands it out. Keys and values are binary; times are Unix times in milliseconds."""

from typing import TypeAlias

import attrs

_SHOWN = 40


def _shortened(content: bytes) -> str:
    """For reprs: a value may have gigabytes."""
    return repr(content) if len(content) <= _SHOWN else f"{content[:_SHOWN]!r}+{len(content) - _SHOWN} bytes"


@attrs.frozen
class Aux:
    """A remark of the server about itself, such as `redis-ver`. Servers may add names at will: ignore unknown ones.

    Redis 6.2 and older also keep the scripts that clients loaded here, one `lua` each.
    """

    name: bytes
    value: bytes  # numbers come as decimal text


@attrs.frozen
class DatabaseSize:
    """How many keys the server says are to follow for a database. A hint for progress, not a promise."""

    database: int  # its number
    keys: int  # number of keys
    expires: int  # how many of them have a time to live


@attrs.frozen
class Value:
    """A key of any type but string, to be written with `RESTORE key 0 payload`."""

    database: int  # its number
    key: bytes
    type: int  # RDB type byte, see `layouts`
    expires_at_ms: int | None  # Unix time in milliseconds; None: never. It may be in the past
    payload: bytes = attrs.field(repr=_shortened)  # as DUMP makes it, with version and checksum


@attrs.frozen
class String:
    """A string key, to be written with SET."""

    database: int  # its number
    key: bytes
    expires_at_ms: int | None  # Unix time in milliseconds; None: never. It may be in the past
    value: bytes = attrs.field(repr=_shortened)  # as GET returns it


@attrs.frozen
class Function:
    """A library of functions. It belongs to the server, not to a database."""

    payload: bytes = attrs.field(repr=_shortened)  # the source code, for FUNCTION LOAD REPLACE


@attrs.frozen
class End:
    """The RDB is complete. Always the last item."""

    checksum_verified: bool  # False: the server wrote none (`rdbchecksum no`)


Item: TypeAlias = Aux | DatabaseSize | Value | String | Function | End

"""Relative expiries made absolute.

Servers before 7.0 send an expiry as the client gave it, and a time counted from now must not be counted again, later,
at the other site. From 7.0 on the stream holds PEXPIREAT and PXAT, and all of this leaves the command alone.
"""

import math
from collections.abc import Callable, Iterable, Mapping

from bisync.core.commands.keys import Args
from bisync.core.commands.normal import SET_COMPARISONS, named_fields

_TO_MS: Mapping[bytes, tuple[int, bool]] = {
    b"EX": (1000, True),
    b"PX": (1, True),
    b"EXAT": (1000, False),
}
"""Options that give an expiry other than PXAT: ms in one unit of its value, and whether it counts from now."""

_Converter = Callable[[Args, int], Args]


def absolute_expiry(args: Args, time_ms: int) -> Args:
    """The command with its expiry as a Unix time in ms: PEXPIREAT, SET ... PXAT, RESTORE ... ABSTTL.

    `time_ms` is when it was written, as a Unix time. The same object where nothing is to change, or where the expiry is
    no number (then the command never was executed).
    """
    converter = _CONVERTERS.get(args[0].upper())
    if converter is None:
        return args
    try:
        return converter(args, time_ms)
    except ValueError:
        return args


LATE_MARGIN_MS, LATE_GRACE_MS = 1_000, 60_000
"""An expiry that is over, or so near that it may be over on arrival, is put off for this long."""


def put_off(args: Args, now_ms: int) -> Args:
    """The command, in its absolute form, with an expiry that is over put off to a little later than `now_ms`.

    The source says itself when the key (or the field) is gone, with a DEL (HDEL), or has renewed it meanwhile. A target
    that deleted it on arrival would lose the renewal that follows.
    """
    at = _expiry_at(args)
    if at is None or not args[at].isdigit():
        return args
    at_ms = int(args[at])
    put = late(at_ms, now_ms)
    return args if put == at_ms else (*args[:at], b"%d" % put, *args[at + 1 :])


def late(at_ms: int, now_ms: int) -> int:
    """The Unix time in ms of an expiry, put off where it is over."""
    return now_ms + LATE_GRACE_MS if 0 < at_ms <= now_ms + LATE_MARGIN_MS else at_ms


def _expiry_at(args: Args) -> int | None:
    """Where the Unix time in ms of an expiry stands."""
    name = args[0].upper()
    if name in (b"PEXPIREAT", b"HPEXPIREAT") or (name == b"RESTORE" and b"ABSTTL" in args[4:]):
        return 2
    if name == b"SET":
        options: Iterable[int] = range(3, len(args) - 1)
    elif name == b"MSETEX":
        options = range(2 + 2 * int(args[1]), len(args) - 1)
    elif name == b"HSETEX":
        first, end = named_fields(args, 2, 2)
        options = (*range(2, first - 2), *range(end, len(args) - 1))
    else:
        return None
    return next((n + 1 for n in options if args[n].upper() == b"PXAT"), None)


def expiry_of(args: Args) -> float | None:
    """When the key expires after this command, which does nothing else: Unix time in ms, `math.inf` for never.

    None for every other command: one that sets no time to live, one that writes a value too, and one whose time counts
    from the moment when it is run (see `absolute_expiry`). HPEXPIREAT and HPERSIST say it of fields.
    """
    name, at = args[0].upper(), 2
    if name in (b"PERSIST", b"HPERSIST"):
        return math.inf
    if name == b"GETEX":
        option = args[2].upper() if len(args) > 2 else b""
        if option == b"PERSIST":
            return math.inf
        name, at = {b"PXAT": b"PEXPIREAT", b"EXAT": b"EXPIREAT"}.get(option, b""), 3
    unit_ms = {b"PEXPIREAT": 1, b"HPEXPIREAT": 1, b"EXPIREAT": 1000, b"HEXPIREAT": 1000}.get(name)
    if unit_ms is None or len(args) <= at:
        return None
    try:
        return int(args[at]) * unit_ms
    except ValueError:
        return None


def may_expire(name: bytes) -> bool:
    """Is there a form of the command (its name in capitals) that `absolute_expiry` changes?"""
    return name in _CONVERTERS


def _moment(value: bytes, unit_ms: int, relative: bool, time_ms: int) -> bytes:
    return b"%d" % (int(value) * unit_ms + (time_ms if relative else 0))


def _command(name: bytes, unit_ms: int, relative: bool) -> _Converter:
    """EXPIRE key time [condition], HEXPIRE key time [condition] FIELDS n field ..."""
    return lambda args, now: (
        name,
        args[1],
        _moment(args[2], unit_ms, relative, now),
        *args[3:],
    )


def _setex(unit_ms: int) -> _Converter:
    """SETEX key time value"""
    return lambda args, now: (
        b"SET",
        args[1],
        args[3],
        b"PXAT",
        _moment(args[2], unit_ms, True, now),
    )


def _option(options_at: int, stop: bytes = b"") -> _Converter:
    """SET key value [EX s|PX ms|EXAT s], and others with the same option, before the word `stop`."""

    def convert(args: Args, now: int) -> Args:
        at = options_at
        while at < len(args) - 1 and (option := args[at].upper()) != stop:
            if option in _TO_MS:
                return (
                    *args[:at],
                    b"PXAT",
                    _moment(args[at + 1], *_TO_MS[option], now),
                    *args[at + 2 :],
                )
            at += 2 if option in SET_COMPARISONS else 1
        return args

    return convert


def _set(args: Args, now: int) -> Args:
    return args if len(args) <= 4 else _set_options(args, now)


_set_options = _option(3)


def _msetex(args: Args, now: int) -> Args:
    """MSETEX numkeys key value ... [EX s|...]"""
    return _option(2 + 2 * int(args[1]))(args, now)


def _restore(args: Args, now: int) -> Args:
    """RESTORE key ttl payload [REPLACE] [ABSTTL] ...: a ttl of 0 is none"""
    if int(args[2]) == 0 or any(a.upper() == b"ABSTTL" for a in args[4:]):
        return args
    return (*args[:2], _moment(args[2], 1, True, now), *args[3:], b"ABSTTL")


_CONVERTERS: dict[bytes, _Converter] = {
    b"EXPIRE": _command(b"PEXPIREAT", 1000, True),
    b"PEXPIRE": _command(b"PEXPIREAT", 1, True),
    b"EXPIREAT": _command(b"PEXPIREAT", 1000, False),
    b"HEXPIRE": _command(b"HPEXPIREAT", 1000, True),
    b"HPEXPIRE": _command(b"HPEXPIREAT", 1, True),
    b"HEXPIREAT": _command(b"HPEXPIREAT", 1000, False),
    b"SETEX": _setex(1000),
    b"PSETEX": _setex(1),
    b"SET": _set,
    b"MSETEX": _msetex,
    b"GETEX": _option(2),
    b"HGETEX": _option(2, b"FIELDS"),
    b"HSETEX": _option(2, b"FIELDS"),
    b"RESTORE": _restore,
    b"RESTORE-ASKING": _restore,
}

"""Commands in their unconditional form.

What reached a replication stream did succeed at its site, so a condition that held there must not be asked again at the
other site: SETNX becomes SET, RENAMENX becomes RENAME. Where a condition decides between several elements (a ZADD GT of
two members) it stays, because which of them it let through cannot be told from the command. Blocking commands become
the ones that do not block. Relative expiries are the business of `expiry`.
"""

from collections.abc import Callable

from bisync.core.commands.keys import Args

Normaliser = Callable[[Args], Args]
"""From a command to its unconditional form: the same object where it is that already."""

SET_CONDITIONS = frozenset((b"NX", b"XX", b"GET"))
SET_COMPARISONS = frozenset((b"IFEQ", b"IFNE", b"IFDEQ", b"IFDNE"))  # each with a value; Redis 8.4, Valkey 8.1
_WITH_VALUE = frozenset((b"EX", b"PX", b"EXAT", b"PXAT"))
ZADD_CONDITIONS = frozenset((b"NX", b"XX", b"GT", b"LT"))
ZADD_OPTIONS = ZADD_CONDITIONS | {b"CH", b"INCR"}


def unchanged(args: Args) -> Args:
    """For commands that have no condition."""
    return args


def renamed(name: bytes) -> Normaliser:
    """For commands that have an unconditional twin with the same words."""
    return lambda args: (name, *args[1:])


def without_last(name: bytes) -> Normaliser:
    """For blocking commands with a twin that lacks the timeout at the end."""
    return lambda args: (name, *args[1:-1])


def _plain_set(args: Args) -> Args:
    """SET key value [NX|XX|IFEQ v...] [GET] [EX s|...|KEEPTTL]"""
    if len(args) == 3:
        return args
    kept, at = list(args[:3]), 3
    while at < len(args):
        option = args[at].upper()
        size = 2 if option in _WITH_VALUE or option in SET_COMPARISONS else 1
        if option not in SET_CONDITIONS and option not in SET_COMPARISONS:
            kept += args[at : at + size]
        at += size
    return tuple(kept) if len(kept) < len(args) else args


def _plain_msetex(args: Args) -> Args:
    """MSETEX numkeys key value ... [NX|XX] [EX s|...|KEEPTTL]"""
    end = 2 + 2 * int(args[1])
    kept = [a for a in args[end:] if a.upper() not in SET_CONDITIONS]
    return (*args[:end], *kept) if len(kept) < len(args) - end else args


def _plain_hsetex(args: Args) -> Args:
    """HSETEX key [FNX|FXX] [EX s|...|KEEPTTL] FIELDS n field value ...: one condition for all the fields"""
    end = next((n for n in range(2, len(args)) if args[n].upper() == b"FIELDS"), len(args))
    kept = [a for a in args[2:end] if a.upper() not in (b"FNX", b"FXX")]
    return (*args[:2], *kept, *args[end:]) if len(kept) < end - 2 else args


def _three_words(args: Args) -> Args:
    """EXPIRE key seconds [NX|XX|GT|LT]"""
    return args if len(args) <= 3 else args[:3]


def _delete(args: Args) -> Args:
    return (b"DEL", args[1])


def _delete_fields(args: Args) -> Args:
    """HGETDEL key FIELDS n field ..."""
    return (b"HDEL", args[1], *args[4:])


def _getex(args: Args) -> Args:
    """GETEX key [PXAT ms|PERSIST|EX s|...]: the relative forms stay, see `expiry`"""
    if len(args) == 4 and args[2].upper() == b"PXAT":
        return (b"PEXPIREAT", args[1], args[3])
    if len(args) == 4 and args[2].upper() == b"EXAT":
        return (b"EXPIREAT", args[1], args[3])
    if len(args) == 3 and args[2].upper() == b"PERSIST":
        return (b"PERSIST", args[1])
    return args


def _with_replace(name: bytes, options_at: int) -> Normaliser:
    """COPY and RESTORE did find no key in their way, or were told to replace it."""

    def replace(args: Args) -> Args:
        if any(a.upper() == b"REPLACE" for a in args[options_at:]):
            return args if args[0].upper() == name else (name, *args[1:])
        return (name, *args[1:], b"REPLACE")

    return replace


def zadd_options_end(args: Args) -> int:
    """The index of ZADD's first score (GEOADD's first longitude)."""
    at = 2
    while at < len(args) and args[at].upper() in ZADD_OPTIONS:
        at += 1
    return at


def _scored(width: int) -> Normaliser:
    """ZADD and GEOADD; `width` is the number of words for each member, itself included."""

    def plain(args: Args) -> Args:
        at = zadd_options_end(args)
        if at == 2:
            return args
        options = [a.upper() for a in args[2:at]]
        if b"INCR" in options:
            return (b"ZINCRBY", args[1], *args[at:])
        if len(args) - at == width:
            return (*args[:2], *args[at:])
        if b"CH" in options:  # it changes the reply only
            return (*args[:2], *(o for o in options if o != b"CH"), *args[at:])
        return args

    return plain


def _first_popped(name: bytes) -> Normaliser:
    """BLPOP key ... timeout: with several keys it does not say which one gave, but servers send LPOP themselves."""
    return lambda args: (name, args[1]) if len(args) == 3 else args


def _popped_many(names: dict[bytes, bytes], count_at: int) -> Normaliser:
    """LMPOP numkeys key ... LEFT|RIGHT [COUNT n], with a timeout before it in the blocking form."""

    def pop(args: Args) -> Args:
        if args[count_at] != b"1" or len(args) < count_at + 3:
            return args
        return (
            names[args[count_at + 2].upper()],
            args[count_at + 1],
            *args[count_at + 4 :],
        )

    return pop


_ENDS = {b"LEFT": b"LPOP", b"RIGHT": b"RPOP"}
_EXTREMES = {b"MIN": b"ZPOPMIN", b"MAX": b"ZPOPMAX"}
_XADD_VALUES = {b"MAXLEN": 1, b"MINID": 1, b"LIMIT": 1}
_XADD_FLAGS = frozenset((b"KEEPREF", b"DELREF", b"ACKED"))


def _plain_xadd(args: Args) -> Args:
    """XADD key [NOMKSTREAM] [KEEPREF|...] [MAXLEN|MINID [=|~] threshold [LIMIT n]] id field value ..."""
    at = 2
    while at < len(args):
        option = args[at].upper()
        if option == b"NOMKSTREAM":
            return args[:at] + args[at + 1 :]
        if option in (b"MAXLEN", b"MINID") and args[at + 1] in (b"=", b"~"):
            at += 1
        if option not in _XADD_VALUES and option not in _XADD_FLAGS:
            break
        at += 1 + _XADD_VALUES.get(option, 0)
    return args


NORMALISERS: dict[str, tuple[Normaliser, str]] = {
    "": (unchanged, ""),
    "SET": (renamed(b"SET"), "SET"),
    "MSET": (renamed(b"MSET"), "MSET"),
    "HSET": (renamed(b"HSET"), "HSET"),
    "LPUSH": (renamed(b"LPUSH"), "LPUSH"),
    "RPUSH": (renamed(b"RPUSH"), "RPUSH"),
    "RENAME": (renamed(b"RENAME"), "RENAME"),
    "LMOVE": (without_last(b"LMOVE"), "LMOVE, without the timeout"),
    "RPOPLPUSH": (without_last(b"RPOPLPUSH"), "RPOPLPUSH, without the timeout"),
    "LPOP": (_first_popped(b"LPOP"), "LPOP, where it names one key"),
    "RPOP": (_first_popped(b"RPOP"), "RPOP, where it names one key"),
    "ZPOPMIN": (_first_popped(b"ZPOPMIN"), "ZPOPMIN, where it names one key"),
    "ZPOPMAX": (_first_popped(b"ZPOPMAX"), "ZPOPMAX, where it names one key"),
    "LMPOP": (_popped_many(_ENDS, 1), "LPOP or RPOP, where it names one key"),
    "BLMPOP": (_popped_many(_ENDS, 2), "LPOP or RPOP, where it names one key"),
    "ZMPOP": (_popped_many(_EXTREMES, 1), "ZPOPMIN or ZPOPMAX, where it names one key"),
    "BZMPOP": (
        _popped_many(_EXTREMES, 2),
        "ZPOPMIN or ZPOPMAX, where it names one key",
    ),
    "DEL": (_delete, "DEL"),
    "HDEL": (_delete_fields, "HDEL"),
    "GETEX": (_getex, "PEXPIREAT, EXPIREAT or PERSIST"),
    "plain SET": (_plain_set, "without NX, XX, GET, IFEQ, IFNE, IFDEQ, IFDNE"),
    "plain MSETEX": (_plain_msetex, "without NX, XX"),
    "plain HSETEX": (_plain_hsetex, "without FNX, FXX"),
    "no flags": (_three_words, "without NX, XX, GT, LT"),
    "plain ZADD": (
        _scored(2),
        "without CH; with one member: without NX, XX, GT, LT; ZINCRBY for INCR",
    ),
    "plain GEOADD": (_scored(3), "without CH; with one member: without NX, XX"),
    "COPY": (_with_replace(b"COPY", 3), "with REPLACE"),
    "RESTORE": (_with_replace(b"RESTORE", 4), "RESTORE with REPLACE"),
    "plain XADD": (_plain_xadd, "without NOMKSTREAM"),
}
"""By the word that the table uses: the function, and what it does in words."""

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


def named_fields(args: Args, options_at: int, width: int) -> tuple[int, int]:
    """Where in a command with `FIELDS n ...` the fields stand: the first one, and the word after the last.

    `width` is the number of words for each field, its value included. The options before it and after it begin at
    `options_at`. Both are the number of words where there is no such part.
    """
    at = options_at
    while at < len(args) - 1:
        option = args[at].upper()
        if option == b"FIELDS":
            return at + 2, min(len(args), at + 2 + int(args[at + 1]) * width)
        at += 2 if option in _WITH_VALUE else 1
    return len(args), len(args)


_FIELD_CONDITIONS = frozenset((b"NX", b"XX", b"FNX", b"FXX"))  # those of the key are Valkey's


def _plain_hsetex(args: Args) -> Args:
    """HSETEX key [NX|XX] [FNX|FXX] [EX s|...|KEEPTTL] FIELDS n field value ...: conditions for all fields together"""
    first, end = named_fields(args, 2, 2)
    before = [a for a in args[2 : first - 2] if a.upper() not in _FIELD_CONDITIONS]
    after = [a for a in args[end:] if a.upper() not in _FIELD_CONDITIONS]
    kept = (*args[:2], *before, *args[first - 2 : end], *after)
    return kept if len(kept) < len(args) else args


_EXPIRE_CONDITIONS = frozenset((b"NX", b"XX", b"GT", b"LT"))


def _plain_hexpire(args: Args) -> Args:
    """HPEXPIREAT key time [NX|XX|GT|LT] FIELDS n field ...: the condition is asked of each field"""
    first, end = named_fields(args, 3, 1)
    if end - first != 1 or len(args) == 6:
        return args
    return (*args[:3], *args[first - 2 : end])


def _plain_hgetex(args: Args) -> Args:
    """HGETEX key [PXAT ms|PERSIST|EX s|...] FIELDS n field ...: the relative forms stay, see `expiry`"""
    first, end = named_fields(args, 2, 1)
    options = [*args[2 : first - 2], *args[end:]]
    if len(options) == 2 and options[0].upper() == b"PXAT":
        return (b"HPEXPIREAT", args[1], options[1], *args[first - 2 : end])
    if [o.upper() for o in options] == [b"PERSIST"]:
        return (b"HPERSIST", args[1], *args[first - 2 : end])
    return args


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
_XADD_OPTIONS = {
    **{b"MAXLEN": 2, b"MINID": 2, b"LIMIT": 2, b"KEEPREF": 1, b"DELREF": 1, b"ACKED": 1},
    **{b"NOMKSTREAM": 1, b"IDMP": 3, b"IDMPAUTO": 2},
}
"""The words of each option, itself included."""
_XADD_CONDITIONS = frozenset((b"NOMKSTREAM", b"IDMP", b"IDMPAUTO"))


def _xadd_options(args: Args) -> list[Args]:
    """XADD key [NOMKSTREAM] [KEEPREF|...] [IDMP p i|...] [MAXLEN|MINID [=|~] threshold [LIMIT n]] id field value ..."""
    options, at = [], 2
    while at < len(args) and (option := args[at].upper()) in _XADD_OPTIONS:
        size = _XADD_OPTIONS[option]
        if option in (b"MAXLEN", b"MINID") and args[at + 1] in (b"=", b"~"):
            size += 1
        options.append(args[at : at + size])
        at += size
    return options


def xadd_id_at(args: Args) -> int:
    """The index of the id in an XADD."""
    return 2 + sum(len(option) for option in _xadd_options(args))


def _plain_xadd(args: Args) -> Args:
    """Without IDMP, which servers refuse from a client that gives the id; what was taken before is not in a stream."""
    options = _xadd_options(args)
    kept = [word for option in options if option[0].upper() not in _XADD_CONDITIONS for word in option]
    end = 2 + sum(len(option) for option in options)
    return (*args[:2], *kept, *args[end:]) if len(kept) < end - 2 else args


def _plain_blmovem(args: Args) -> Args:
    """BLMOVEM source destination LEFT|RIGHT LEFT|RIGHT timeout [COUNT|EXACTLY n OBO|BULK]"""
    return (b"LMOVEM", *args[1:5], *args[6:])


def _plain_function(args: Args) -> Args:
    """FUNCTION LOAD code, FUNCTION RESTORE payload [FLUSH|APPEND|REPLACE]: no library was in their way"""
    asked = args[1].upper() if len(args) > 1 else b""
    if asked == b"LOAD" and len(args) == 3:
        return (*args[:2], b"REPLACE", args[2])
    if asked == b"RESTORE" and (len(args) == 3 or args[3].upper() == b"APPEND"):
        return (*args[:3], b"REPLACE")
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
    "plain HSETEX": (_plain_hsetex, "without NX, XX, FNX, FXX"),
    "plain HPEXPIREAT": (_plain_hexpire, "with one field: without NX, XX, GT, LT"),
    "HPEXPIREAT": (_plain_hgetex, "HPEXPIREAT or HPERSIST"),
    "no flags": (_three_words, "without NX, XX, GT, LT"),
    "plain ZADD": (
        _scored(2),
        "without CH; with one member: without NX, XX, GT, LT; ZINCRBY for INCR",
    ),
    "plain GEOADD": (_scored(3), "without CH; with one member: without NX, XX"),
    "COPY": (_with_replace(b"COPY", 3), "with REPLACE"),
    "RESTORE": (_with_replace(b"RESTORE", 4), "RESTORE with REPLACE"),
    "plain XADD": (_plain_xadd, "without NOMKSTREAM, IDMP, IDMPAUTO"),
    "LMOVEM": (_plain_blmovem, "LMOVEM, without the timeout"),
    "with REPLACE": (_plain_function, "LOAD and RESTORE with REPLACE"),
}
"""By the word that the table uses: the function, and what it does in words."""

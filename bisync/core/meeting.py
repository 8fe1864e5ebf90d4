"""What both sites end with when two commands met at one key, as a table for people.

The words are found with the same code that detects a conflict and judges it, so the table cannot say anything else.
"""

from collections.abc import Iterator

from bisync.core.commands import Args, commute, known_row, same_place
from bisync.core.detection import units_in_doubt
from bisync.core.moment import Moment
from bisync.core.operation import Operation
from bisync.core.policy import Contender, judge
from bisync.core.position import START
from bisync.core.rules import Rules

OUTCOMES = {
    "both": "No conflict: both are applied, and the result is the same in either order.",
    "sum": "No conflict: the numbers add up.",
    "newest": "The newer write stands; what the other one wrote is replaced.",
    "in order": "As if the newer write had come after the older one. If it replaces what was there, nothing of the "
    "older one is left; if it builds on what was there, it builds on the older one.",
    "update": "As if the delete had come first, however new it is.",
    "longest": "The time to live that ends last; none at all (`PERSIST`) is the longest.",
    "merged": "The entries of both, by their ids.",
    "one type": "A key has one type, so each site refuses the other's write. One of the two keys stands, as a whole.",
}
"""What can come of it, in words. The newer write is the one that the policy prefers."""

_RULES = Rules("table", "east", "west")
_TYPED = frozenset(("string", "hash", "list", "set", "zset", "stream", "vector", "array"))

# type | at one site | at the other
_MEETINGS = """
any | SET k a | SET k b
any | SET k a | SET k a
any | SET k a | DEL k
any | SET k a | PEXPIREAT k 5
any | DEL k | UNLINK k
any | PEXPIREAT k 5 | PEXPIREAT k 6
any | PEXPIREAT k 5 | PERSIST k
any | PEXPIREAT k 5 | DEL k
any | MSET k a j a | SET k b
any | RENAME k j | SET k b
any | RENAME k j | SET j b
any | COPY k j REPLACE | SET k b
any | FLUSHALL | SET k a
any | FLUSHALL | DEL k
any | HSET k f a | SADD k a
string | INCR k | INCRBY k 5
string | INCR k | SET k 5
string | INCR k | DEL k
string | INCR k | PEXPIREAT k 5
string | SET k 1.5 KEEPTTL | SET k 2.5 KEEPTTL
string | APPEND k a | APPEND k b
string | APPEND k a | SET k b
string | SETBIT k 1 1 | SETBIT k 2 1
string | SETBIT k 1 1 | SETBIT k 1 0
string | PFADD k a | PFADD k b
hash | HSET k f a | HSET k g b
hash | HSET k f a | HSET k f b
hash | HSET k f a | HDEL k f
hash | HSET k f a | HDEL k g
hash | HDEL k f | HDEL k g
hash | HINCRBY k f 1 | HINCRBY k f 5
hash | HINCRBY k f 1 | HSET k f 5
hash | HSET k f a | PEXPIREAT k 5
hash | HSETEX k PXAT 5 FIELDS 1 f a | HSETEX k PXAT 6 FIELDS 1 f b
hash | HSETEX k KEEPTTL FIELDS 1 f 1.5 | HSETEX k KEEPTTL FIELDS 1 f 2.5
hash | HPEXPIREAT k 5 FIELDS 1 f | HPEXPIREAT k 5 FIELDS 1 g
hash | HPEXPIREAT k 5 FIELDS 1 f | HPEXPIREAT k 6 FIELDS 1 f
hash | HPEXPIREAT k 5 FIELDS 1 f | HSET k f a
hash | HSET k f a | DEL k
list | LPUSH k a | RPUSH k b
list | LPUSH k a | LPUSH k b
list | LPUSH k a | LPOP k
list | LPOP k | LPOP k
list | LPUSH k a | DEL k
list | LMOVE k j LEFT RIGHT | LPUSH k a
list | LTRIM k 0 9 | RPUSH k a
set | SADD k a | SADD k b
set | SADD k a | SREM k a
set | SADD k a | SREM k b
set | SREM k a | SREM k b
set | SMOVE k j a | SADD j a
set | SUNIONSTORE j k k2 | SADD k a
set | SUNIONSTORE j k k2 | SADD j a
sorted set | ZADD k 1 a | ZADD k 2 b
sorted set | ZADD k 1 a | ZADD k 2 a
sorted set | ZINCRBY k 1 a | ZINCRBY k 1 b
sorted set | ZINCRBY k 1 a | ZINCRBY k 2 a
sorted set | ZADD k 1 a | ZREM k a
sorted set | ZPOPMIN k | ZADD k 1 a
stream | XADD k 5-1 f a | XADD k 6-1 f b
stream | XADD k 5-1 f a | XDEL k 1-1
stream | XADD k 5-1 f a | XACK k g 1-1
stream | XADD k 5-1 f a | DEL k
array | ARSET k 0 a | ARSET k 1 b
vector set | VADD k VALUES 2 1 0 a | VADD k VALUES 2 0 1 b
"""


def meetings() -> str:
    """The table in `docs/conflicts.md`, in Markdown."""
    lines = ["| type | at one site | at the other | both end with | one decision for |", "|---|---|---|---|---|"]
    for kind, p, q in _pairs():
        calls = (f"`{b' '.join(o.args).decode()}`" for o in (p, q))
        lines.append(f"| {' | '.join((kind, *calls, outcome(p, q), _unit(p, q)))} |")
    return "\n".join(lines) + "\n"


def operation(args: Args) -> Operation:
    """A command as it is compared: in database 0 and in its unconditional form."""
    row = known_row(args[0])
    return Operation(row.normalise(args), 0, b"", 0, row)


def _pairs() -> Iterator[tuple[str, Operation, Operation]]:
    for line in _MEETINGS.strip().splitlines():
        kind, *calls = (part.strip() for part in line.split("|"))
        p, q = (operation(tuple(call.encode().split())) for call in calls)
        yield kind, p, q


def outcome(p: Operation, q: Operation) -> str:
    """A word of OUTCOMES for two concurrent operations of two sites, under last-writer."""
    assert p.row is not None and q.row is not None
    if commute(p.args, 0, q.args, 0):
        return "sum" if _counts(p) and _counts(q) else "both"
    if not units_in_doubt(p, q):
        return "both"
    rule = judge(
        _RULES, b"k", Contender(p, START, Moment(0, 0), "east"), Contender(q, START, Moment(1, 1), "west")
    ).rule
    if rule != "newest write":
        return {"update over delete": "update", "longest time to live": "longest"}[rule]
    places = [(a, b) for a in p.footprint.writes for b in q.footprint.writes if same_place(a, b)]
    families = {p.row.family, q.row.family}
    if len(families) > 1 and families <= _TYPED and not any(w.overwrites for ab in places for w in ab if not w.element):
        return "one type"
    if families == {"stream"}:
        return "merged"
    if places and all(a.overwrites and b.overwrites and a.element == b.element for a, b in places):
        return "newest"
    return "in order"


def _unit(p: Operation, q: Operation) -> str:
    units = [] if commute(p.args, 0, q.args, 0) else units_in_doubt(p, q)
    if not units:
        return ""
    elements = {unit.element for unit in units}
    if None in elements:
        return "the key" if len(units) == 1 else "each key"
    names = {"hash": "the field", "ttl": "the time to live"}
    return " and ".join(sorted({names.get(element[0], "the member") for element in elements if element}))


def _counts(op: Operation) -> bool:
    return op.row is not None and (op.row.change == "counts" or op.row.name == b"HINCRBY")


def outcomes() -> str:
    """The words of the table, in Markdown."""
    return "".join(f"- `{word}`: {text}\n" for word, text in OUTCOMES.items())


def in_page(page: str) -> str:
    """The page with the parts that are made here between their marks."""
    for name, text in (("outcomes", outcomes()), ("table", meetings())):
        begin, end = f"<!-- {name}: made from bisync/core/meeting.py -->\n", "<!-- end -->\n"
        before, _, rest = page.partition(begin)
        _, _, after = rest.partition(end)
        page = f"{before}{begin}{text}{end}{after}"
    return page

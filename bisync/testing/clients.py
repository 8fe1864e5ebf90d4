"""Clients at the sites of a simulated pair, and what must come of their writes.

Some writes come with a promise that can be checked in the end, whatever happened meanwhile: a site's log (a list to
which only its own clients append) has each line once and in order, a counter of both sites is the sum, a list has each
item pushed at either site once, a set is the union. All others may only end equal.

    clients = Clients(pair)
    clients.log("east", (b"INCR", b"n"))    # a client's MULTI: the next line of the log, and the command
    clients.count("west", 3)
    pair.drain()
    assert clients.broken() == []
"""

from collections.abc import Callable

from bisync.core.rules import LAST_WRITER
from bisync.core.tag import Tag, tag_key
from bisync.testing.pair import SimulatedPair
from bisync.testing.strategies import Command


class Clients:
    """Clients of both sites. Their promised writes at the target begin with the job, as it replaces what was there."""

    def __init__(self, pair: SimulatedPair) -> None:
        self.pair = pair
        self.certain = True  # does the engine know when the writes were made?
        self._lines = {name: 0 for name in pair.sites}
        self._sum = 0
        self._pushed: list[bytes] = []
        self._added: set[bytes] = set()
        self._last = b""
        self._fields: dict[bytes, bytes] = {}
        self._serial = 0

    def __repr__(self) -> str:
        return f"<Clients of {self.pair}: {self._lines} lines, sum {self._sum}, {len(self._pushed)} pushed>"

    def may_promise(self, site: str) -> bool:
        """Can a promise be kept for a write here and now?

        Not at the site that is only followed, nor at the target before a tag says from where its stream is read. Where
        the source is preferred, not at the target before the full copy is finished: the copy is preferred too.
        Where the sites are reconciled and the target is preferred, not before that is done.
        """
        rules = self.pair.rules
        if rules.target_not_empty == "reconcile" and rules.policy == rules.target:
            return self._begun(lambda tag: bool(tag.copied)) and not self._begun(lambda tag: bool(tag.reconciling))
        if site == rules.source:
            return True
        if not rules.bidirectional or not self._begun(lambda tag: site in tag.floors):
            return False
        return rules.policy != rules.source or self._begun(lambda tag: bool(tag.copied))

    def _begun(self, said: Callable[[Tag], bool]) -> bool:
        return any(said(tag) for tag in tags_held(self.pair).values())

    def log(self, site: str, *commands: Command, database: int = 0) -> None:
        """A transaction: the next line of the site's log, and other commands."""
        line = (b"RPUSH", b"log:%s" % site.encode(), b"%d" % self._lines[site])
        select = [(b"SELECT", b"%d" % database)] if database else []
        if self.may_promise(site) and self._accepted(site, line, *select, *commands):
            self._lines[site] += 1

    def count(self, site: str, amount: int) -> None:
        """The counter of both sites goes up or down."""
        if self.may_promise(site) and self._accepted(site, (b"INCRBY", b"sum", b"%d" % amount)):
            self._sum += amount

    def push(self, site: str, end: bytes = b"RPUSH") -> None:
        """A new item at an end of the list of both sites."""
        item = b"%d" % len(self._pushed)
        if self.may_promise(site) and self._accepted(site, (end, b"pushed", item)):
            self._pushed.append(item)

    def add(self, site: str, member: bytes) -> None:
        """A member for the set of both sites, where it may be already."""
        if self.may_promise(site) and self._accepted(site, (b"SADD", b"added", member)):
            self._added.add(member)

    def may_promise_newest(self, site: str) -> bool:
        """Will the newest write stand? Only where no site is preferred and the times of writes are known.

        Nor while the full copy is under way: a copied value counts as older than every write that is seen as one.
        """
        return (
            self.may_promise(site)
            and self.certain
            and self.pair.rules.policy == LAST_WRITER
            and self._begun(lambda tag: bool(tag.copied))
        )

    def assign(self, site: str) -> None:
        """A new value for a string of both sites, of which the newest stands."""
        self._serial += 1
        if self.may_promise_newest(site) and self._accepted(site, (b"SET", b"last", b"%d" % self._serial)):
            self._last = b"%d" % self._serial

    def assign_field(self, site: str, field: bytes) -> None:
        """A new value for a field of a hash of both sites, of which the newest stands."""
        self._serial += 1
        if self.may_promise_newest(site) and self._accepted(site, (b"HSET", b"fields", field, b"%d" % self._serial)):
            self._fields[field] = b"%d" % self._serial

    def _accepted(self, site: str, *commands: Command) -> bool:
        """Did the site take the write? It may refuse all writes at the moment."""
        return not isinstance(self.pair.write(site, *commands)[-1], Exception)

    def broken(self) -> list[str]:
        """The promises that are not kept; call it when the pair is drained."""
        found = [f"unequal: {d}" for d in self.pair.differences()]
        if self.pair.pair is not None and len(self.pair.pair.arbiter):
            found.append(f"still open: {self.pair.pair.arbiter}")
        for site in self.pair.sites:
            data = {key: held[1] for (database, key), held in self.pair.dataset(site).items() if database == 0}
            lists = {key: value if isinstance(value, tuple) else () for key, value in data.items()}
            for name, lines in self._lines.items():
                if lists.get(b"log:%s" % name.encode(), ()) != tuple(b"%d" % n for n in range(lines)):
                    found.append(
                        f"{site}: the log of {name} is {data.get(b'log:%s' % name.encode())!r} of {lines} lines"
                    )
            if data.get(b"sum", b"0") != b"%d" % self._sum:
                found.append(f"{site}: the counter is {data.get(b'sum')!r}, not {self._sum}")
            if sorted(lists.get(b"pushed", ())) != sorted(self._pushed):
                found.append(f"{site}: pushed were {self._pushed}, held are {data.get(b'pushed')!r}")
            if data.get(b"added", frozenset()) != self._added:
                found.append(f"{site}: added were {self._added}, held are {data.get(b'added')!r}")
            if data.get(b"last", b"") != self._last:
                found.append(f"{site}: the newest value is {self._last!r}, held is {data.get(b'last')!r}")
            if data.get(b"fields", {}) != self._fields:
                found.append(f"{site}: the newest fields are {self._fields}, held are {data.get(b'fields')!r}")
        return found


def tags_held(pair: SimulatedPair) -> dict[str, Tag]:
    """The tags that the sites hold at this moment, by channel."""
    tags = {}
    for x in pair.rules.origins:
        channel = pair.rules.channel(x)
        (held,) = pair.write(pair.rules.other(x), (b"GET", tag_key(pair.rules.job, channel)))
        if isinstance(held, bytes):
            tags[channel] = Tag.decode(held)
    return tags

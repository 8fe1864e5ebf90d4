"""What clients write to two real sites, and what must have come of it.

`random` writes anything to few keys; the sites may only end equal. Each other workload keeps to one kind of write,
about which there is a promise that can be checked in the end, whatever happened meanwhile:

| workload | writes | must hold at both sites in the end |
|---|---|---|
| `newest` | SET | each key has the newest of the values written to it |
| `fields` | HSET | each field of each hash has the newest of its values |
| `counters` | INCRBY and the like, HINCRBY, ZINCRBY | each sum is exact |
| `pushes` | LPUSH, RPUSH | each list has each item as often as it was pushed |
| `adds` | SADD | each set is the union |
| `entries` | XADD with the server's ids | each stream has every entry |

A workload keeps a ledger of what the sites have accepted. A write without an answer (its connection was lost) is
unsure: it may have taken effect or not, and either is right.

"Newest" is about when writes were made, and nobody can know that exactly. The claim is: the value that stands is not
older than another one by more than a margin.
"""

import abc
import collections
import itertools
import random
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import attrs
import redis

from bisync.errors import BisyncError
from bisync.testing.strategies import Command

FORMS = ("single", "pipeline", "transaction", "script")
"""How the commands of a step are sent: one by one, together, as one MULTI/EXEC, as one script."""

MARGIN_MS = 250.0
"""How much older than the newest value the one may be that stands: what a busy machine may keep an engine waiting."""

SUBSETS_MAX = 16
"""So many unsure increments of one sum are told apart; more mean that the sum is only known within bounds."""


@attrs.frozen
class Step:
    """What a client does at once."""

    commands: list[Command]
    form: str = "single"  # one of FORMS


@attrs.frozen
class Sent:
    """A step that a client has sent. Times in ms, all by one clock."""

    site: str
    step: Step
    sent_ms: float
    answered_ms: float
    replies: Sequence[Any] | None  # of each command, errors among them; None: no answer came


class Workload(abc.ABC):
    """What clients write, and the ledger of it. Safe to use from several threads."""

    name = ""
    promise = ""  # what must hold in the end, beyond that both sites are equal; empty: nothing

    def __init__(self, seed: int, keys: int) -> None:
        """`keys` is how many keys there are to write to."""
        self.seed = seed
        self.keys = [b"k%d" % n for n in range(keys)]
        self._lock = threading.Lock()
        self._number = itertools.count()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} seed {self.seed}, {len(self.keys)} keys>"

    def before(self) -> list[Command]:
        """What the source holds before the engine begins."""
        return []

    def step(self, draw: random.Random, site: str) -> Step:
        """What a client at this site does next."""
        size = draw.choice((1, 1, 1, 2, 5))
        return Step([self.command(draw, site) for _ in range(size)], draw.choice(FORMS[:3]))

    @abc.abstractmethod
    def command(self, draw: random.Random, site: str) -> Command:
        """One of the writes of a step."""

    def finale(self, sites: Sequence[str]) -> Iterator[tuple[str, Command]]:
        """Lone writes after all others, each with its site: whatever was uncertain before, they are the newest."""
        return iter(())

    def sent(self, sent: Sent) -> None:
        """A client has sent a step: put it into the ledger."""
        with self._lock:
            for n, command in enumerate(sent.step.commands):
                if sent.replies is None:
                    self.note(sent, command, None, sure=False)
                elif not isinstance(sent.replies[n], Exception):
                    self.note(sent, command, sent.replies[n], sure=True)

    def note(self, sent: Sent, command: Command, reply: Any, *, sure: bool) -> None:
        """One command of the ledger; `sure`: the site has accepted it."""

    def broken(self, client: "redis.Redis") -> list[str]:
        """What this site does not hold as it was promised, in words."""
        return []

    def unique(self, site: str) -> bytes:
        """A value that no other write has."""
        return b"%s:%d" % (site.encode(), next(self._number))


class RandomWrites(Workload):
    """Writes of every family. Which ones, and how, is the seed's choice: the mix, the pool of commands, the forms."""

    name = "random"

    def __init__(self, seed: int, keys: int) -> None:
        super().__init__(seed, keys)
        chance = random.Random(f"mix {seed}")
        self.apart = chance.random() < 0.5  # has each family keys of its own? Then more of its writes succeed
        self.forms = chance.choice([("single",), ("single", "pipeline"), FORMS, ("transaction", "script")])
        self.pool = self._pool(chance)

    def _pool(self, chance: random.Random) -> list[Command]:
        from hypothesis import strategies as st

        from bisync.testing import families, strategies

        soon, wide = chance.random() < 0.5, chance.random() < 0.1  # wide ones meet every write, so they are seldom
        if not self.apart:
            return draw_commands(families.all_commands(st.sampled_from(self.keys), soon=soon, wide=wide), 400, chance)
        kinds = {
            b"s": [strategies.string_commands, families.bit_commands, strategies.expiries],
            b"l": [strategies.list_commands],
            b"t": [strategies.set_commands, strategies.random_pops],
            b"h": [strategies.hash_commands],
            b"z": [strategies.sorted_set_commands, families.place_commands, families.computed_commands],
            b"x": [families.stream_commands],
            b"p": [families.count_commands],
        }
        share, found = 1 + len(self.keys) // len(kinds), []
        for prefix, makers in kinds.items():
            keys = st.sampled_from([b"%s%d" % (prefix, n) for n in range(share)])
            makers = [*makers, *makers, strategies.key_commands, *[families.soon_over] * soon]
            makers += [families.wide_commands] * (wide and prefix == b"l")
            found += draw_commands(st.one_of(*(make(keys) for make in makers)), 80, chance)
        return found

    def before(self) -> list[Command]:
        """Some of the pool."""
        return random.Random(f"before {self.seed}").sample(self.pool, 60)

    def step(self, draw: random.Random, site: str) -> Step:
        """One command of the pool or some, in a form that the seed allows."""
        form = draw.choice(self.forms)
        commands = [self.command(draw, site) for _ in range(1 if form == "single" else draw.choice((1, 2, 3, 8)))]
        return Step(commands, form)

    def command(self, draw: random.Random, site: str) -> Command:
        """One of the pool."""
        return draw.choice(self.pool)


def draw_commands(strategy: Any, number: int, chance: random.Random) -> list[Command]:
    """So many examples of a Hypothesis strategy of commands, the same for the same state of `chance`."""
    from hypothesis import given, settings
    from hypothesis import strategies as st

    found: list[Command] = []

    @settings(database=None, deadline=None)
    @given(st.lists(strategy, min_size=number, max_size=number))
    def take(commands: list[Command]) -> None:
        found[:] = commands

    for size in (200, 800, 3_200):  # bytes of chance for each; too few give no example
        take.hypothesis.fuzz_one_input(chance.randbytes(size * number))  # type: ignore[attr-defined]
        if found:
            return found
    raise BisyncError("no examples of these commands could be drawn", hint="give a strategy that rejects less")


# -- promises


@attrs.define
class _Value:
    """A value in the ledger of a place."""

    sent_ms: float
    answered_ms: float
    sure: bool


class Newest(Workload):
    """SET on few keys: each ends with the newest value."""

    name = "newest"
    promise = "each key has the newest of its values"

    def __init__(self, seed: int, keys: int) -> None:
        super().__init__(seed, keys)
        self.ledger: dict[tuple[bytes, ...], dict[bytes, _Value]] = collections.defaultdict(dict)
        self.last: dict[tuple[bytes, ...], bytes] = {}  # by place: the write of the finale
        self.margin_ms: float | None = MARGIN_MS  # None: nothing is claimed but that the value was written
        self._values: dict[bytes, None] = {}

    def places(self) -> list[tuple[bytes, ...]]:
        """What has values: keys."""
        return [(key,) for key in self.keys]

    def write(self, place: tuple[bytes, ...], value: bytes) -> Command:
        """The command that gives a place its value."""
        return (b"SET", *place, value)

    def read(self, client: "redis.Redis", place: tuple[bytes, ...]) -> Any:
        """The value of a place."""
        return client.get(place[0])

    def command(self, draw: random.Random, site: str) -> Command:
        """A new value for one of the places."""
        return self.write(draw.choice(self.places()), self.unique(site))

    def finale(self, sites: Sequence[str]) -> Iterator[tuple[str, Command]]:
        """One more value for each place."""
        for n, place in enumerate(self.places()):
            site = sites[(n + self.seed) % len(sites)]
            self.last[place] = self.unique(site)
            yield site, self.write(place, self.last[place])

    def note(self, sent: Sent, command: Command, reply: Any, *, sure: bool) -> None:
        """Put it into the ledger."""
        self.ledger[command[1:-1]][command[-1]] = _Value(sent.sent_ms, sent.answered_ms, sure)

    def broken(self, client: "redis.Redis") -> list[str]:
        """What is not as the ledger says."""
        return [text for place in self.places() if (text := self._wrong(place, self.read(client, place)))]

    def _wrong(self, place: tuple[bytes, ...], value: Any) -> str:
        name, written = b" ".join(place).decode(), self.ledger[place]
        if value is None:
            sure = sum(v.sure for v in written.values())
            return f"{name} is missing, and {sure} values were written to it" if sure else ""
        if value not in written:
            return f"{name} is {value!r}, which nobody has written"
        if place in self.last:
            return "" if value == self.last[place] else f"{name} is {value!r}, not the last one {self.last[place]!r}"
        if self.margin_ms is None:
            return ""
        newest, made = max(((v.sent_ms, name) for name, v in written.items() if v.sure), default=(0.0, b""))
        older_ms = newest - written[value].answered_ms
        if older_ms <= self.margin_ms:
            return ""
        return f"{name} is {value!r}, which is {older_ms:.0f} ms older than {made!r}"


class Fields(Newest):
    """HSET on few fields of few hashes: each field ends with its newest value."""

    name = "fields"
    promise = "each field of each hash has the newest of its values"

    def places(self) -> list[tuple[bytes, ...]]:
        """Fields of hashes."""
        return [(key, field) for key in self.keys for field in (b"f", b"g", b"h")]

    def write(self, place: tuple[bytes, ...], value: bytes) -> Command:
        """An HSET."""
        return (b"HSET", *place, value)

    def read(self, client: "redis.Redis", place: tuple[bytes, ...]) -> Any:
        """The value of a field."""
        return client.hget(*place)


class Counters(Workload):
    """Increments of strings, fields and scores: each ends with the exact sum."""

    name = "counters"
    promise = "each sum is exact"

    def __init__(self, seed: int, keys: int) -> None:
        super().__init__(seed, keys)
        self.sums: dict[tuple[bytes, ...], int] = collections.defaultdict(int)
        self.unsure: dict[tuple[bytes, ...], list[int]] = collections.defaultdict(list)

    def command(self, draw: random.Random, site: str) -> Command:
        """One of them up or down."""
        key, amount = draw.choice(self.keys), draw.choice((1, 1, 3, -2, 1000))
        table: list[Command] = [
            (b"INCR", b"n" + key),
            (b"DECR", b"n" + key),
            (b"INCRBY", b"n" + key, b"%d" % amount),
            (b"DECRBY", b"n" + key, b"%d" % amount),
            (b"HINCRBY", b"h" + key, draw.choice((b"f", b"g")), b"%d" % amount),
            (b"ZINCRBY", b"z" + key, b"%d" % amount, draw.choice((b"f", b"g"))),
        ]
        return draw.choice(table)

    def note(self, sent: Sent, command: Command, reply: Any, *, sure: bool) -> None:
        """Put it into the ledger."""
        place, amount = self._meaning(command)
        if sure:
            self.sums[place] += amount
        else:
            self.unsure[place].append(amount)

    @staticmethod
    def _meaning(command: Command) -> tuple[tuple[bytes, ...], int]:
        name, key, *rest = command
        if name == b"HINCRBY":
            return (key, rest[0]), int(rest[1])
        if name == b"ZINCRBY":
            return (key, rest[1]), int(rest[0])
        amount = int(rest[0]) if rest else 1
        return (key,), -amount if name.startswith(b"DECR") else amount

    def broken(self, client: "redis.Redis") -> list[str]:
        """What is not as the ledger says."""
        found = []
        for place in sorted(self.sums.keys() | self.unsure.keys()):
            value = self._read(client, place)
            if not self._possible(place, value):
                unsure = f" (and perhaps {self.unsure[place]})" if self.unsure[place] else ""
                found.append(f"{b' '.join(place).decode()} is {value}, not {self.sums[place]}{unsure}")
        return found

    @staticmethod
    def _read(client: "redis.Redis", place: tuple[bytes, ...]) -> float:
        if len(place) == 1:
            return float(client.get(place[0]) or 0)
        return float((client.hget if place[0][:1] == b"h" else client.zscore)(*place) or 0)

    def _possible(self, place: tuple[bytes, ...], value: float) -> bool:
        unsure, sure = self.unsure[place], self.sums[place]
        if len(unsure) > SUBSETS_MAX:
            return sure + sum(a for a in unsure if a < 0) <= value <= sure + sum(a for a in unsure if a > 0)
        sums = {sure}
        for amount in unsure:
            sums |= {s + amount for s in sums}
        return value in sums


class _Gathered(Workload):
    """What is added stays: nothing that was written may be missing, and nothing may be there that was not."""

    def __init__(self, seed: int, keys: int) -> None:
        super().__init__(seed, keys)
        self.wanted: dict[bytes, collections.Counter[Any]] = collections.defaultdict(collections.Counter)
        self.perhaps: dict[bytes, collections.Counter[Any]] = collections.defaultdict(collections.Counter)

    @abc.abstractmethod
    def held(self, client: "redis.Redis", key: bytes) -> "collections.Counter[Any]":
        """What a site holds, each with how often."""

    def broken(self, client: "redis.Redis") -> list[str]:
        """What is not as the ledger says."""
        found = []
        for key in self.keys:
            held, wanted = self.held(client, key), self.wanted[key]
            missing, strange = wanted - held, held - wanted - self.perhaps[key]
            for what, items in (("missing", missing), ("too many", strange)):
                if items:
                    shown = ", ".join(map(str, sorted(items)[:4]))
                    found.append(f"{key.decode()}: {items.total()} of {wanted.total()} are {what}: {shown}")
        return found


class Pushes(_Gathered):
    """LPUSH and RPUSH of items of their own: each list ends with all of them."""

    name = "pushes"
    promise = "each list has every item exactly once"

    def command(self, draw: random.Random, site: str) -> Command:
        """New items at an end of a list."""
        items = [self.unique(site) for _ in range(draw.choice((1, 1, 3)))]
        return (draw.choice((b"LPUSH", b"RPUSH")), draw.choice(self.keys), *items)

    def note(self, sent: Sent, command: Command, reply: Any, *, sure: bool) -> None:
        """Put it into the ledger."""
        (self.wanted if sure else self.perhaps)[command[1]].update(command[2:])

    def held(self, client: "redis.Redis", key: bytes) -> "collections.Counter[Any]":
        """What the key holds."""
        return collections.Counter(client.lrange(key, 0, -1))


class Adds(_Gathered):
    """SADD of few members, and of new ones: each set ends as the union."""

    name = "adds"
    promise = "each set is the union"

    def command(self, draw: random.Random, site: str) -> Command:
        """Members, new ones and such as are there."""
        members = [draw.choice((self.unique(site), b"%d" % draw.randrange(40))) for _ in range(draw.choice((1, 3)))]
        return (b"SADD", draw.choice(self.keys), *members)

    def note(self, sent: Sent, command: Command, reply: Any, *, sure: bool) -> None:
        """Put it into the ledger."""
        (self.wanted if sure else self.perhaps)[command[1]].update(dict.fromkeys(command[2:], 1))

    def held(self, client: "redis.Redis", key: bytes) -> "collections.Counter[Any]":
        """What the key holds."""
        for counts in (self.wanted[key], self.perhaps[key]):
            counts.update({member: 1 - counts[member] for member in counts})  # a set: each once
        return collections.Counter(client.smembers(key))


class Entries(_Gathered):
    """XADD with the server's ids: each stream ends with all entries, by their values.

    Both servers may give one id to two different entries in the same ms. A stream can hold only one of these; so of
    ids that both sites gave, either entry is right, and both sites must hold the same.
    """

    name = "entries"
    promise = "each stream has every entry"

    def __init__(self, seed: int, keys: int) -> None:
        super().__init__(seed, keys)
        self._by_id: dict[tuple[bytes, bytes], set[bytes]] = collections.defaultdict(set)

    def command(self, draw: random.Random, site: str) -> Command:
        """A new entry."""
        return (b"XADD", draw.choice(self.keys), b"*", b"v", self.unique(site))

    def note(self, sent: Sent, command: Command, reply: Any, *, sure: bool) -> None:
        """Put it into the ledger."""
        key, value = command[1], command[-1]
        if not sure:
            self.perhaps[key][value] = 1
            return
        rivals = self._by_id[key, reply]
        rivals.add(value)
        if len(rivals) > 1:
            for rival in rivals:
                self.wanted[key].pop(rival, None)
                self.perhaps[key][rival] = 1
        else:
            self.wanted[key][value] = 1

    @property
    def collisions(self) -> int:
        """Ids that both sites gave."""
        return sum(len(values) > 1 for values in self._by_id.values())

    def held(self, client: "redis.Redis", key: bytes) -> "collections.Counter[Any]":
        """What the key holds."""
        return collections.Counter(_entries(client, key, b"-", b"+"))

    def broken(self, client: "redis.Redis") -> list[str]:
        """What is not as the ledger says."""
        found = super().broken(client)
        for (key, entry), values in sorted(self._by_id.items()):
            if len(values) > 1:
                held = _entries(client, key, entry, entry)
                if len(held) != 1 or held[0] not in values:
                    found.append(f"{key.decode()}: both sites gave the id {entry.decode()}; it holds {held}")
        return found


def _entries(client: "redis.Redis", key: bytes, first: bytes, last: bytes) -> list[bytes]:
    found: Any = client.xrange(key, first, last)
    return [fields[b"v"] for _, fields in found]


WORKLOADS: Mapping[str, Callable[[int, int], Workload]] = {
    kind.name: kind for kind in (RandomWrites, Newest, Fields, Counters, Pushes, Adds, Entries)
}
"""Every workload by its name: called with a seed and how many keys there are."""


def make_workload(name: str, seed: int, keys: int) -> Workload:
    """The workload of that name. Raises BisyncError where there is none."""
    if name not in WORKLOADS:
        raise BisyncError(f"there is no workload {name!r}", hint=f"choose one of {', '.join(WORKLOADS)}")
    return WORKLOADS[name](seed, keys)

"""Which conflicts there truly were in a history: found after the fact, from both streams, by comparing all with all.

The engine finds conflicts while it reads, in one pass, with crashes in between. Here both streams lie open: what each
write had seen stands in the tags before it. So the two can be held against each other.
"""

import attrs

from bisync.core.commands import commute
from bisync.core.detection import units_in_doubt
from bisync.core.echo import deleted_by_server
from bisync.core.operation import Operation, Understanding
from bisync.core.position import START, Clock, stream_clock
from bisync.core.unit import Unit
from bisync.testing.pair import SimulatedPair


@attrs.frozen(eq=False)
class Made:
    """A client's write as it stands in the stream of its site."""

    clock: Clock
    seen: Clock  # of the other site's writes
    operations: list[Operation]
    by_server: bool = False  # a key that had reached its expiry, deleted when the engine's own write came to it


def writes_made(pair: SimulatedPair, site: str, *, after: int = 0) -> list[Made]:
    """The client writes in a site's stream that begin at this offset (bytes) or later; after one full copy at most."""
    understand, seen, found = Understanding(pair.rules, site), START, []
    assert pair.pair is not None
    copy = pair.pair.copying.copy if site == pair.rules.source else 0
    for entry in pair.entries(site):
        commands = entry.commands if entry.tag is None else deleted_by_server(entry)
        understood = [understand(c, pair.now_ms, pair.now_ms) for c in commands]
        operations = [o for o in understood if isinstance(o, Operation)]
        if operations and entry.start >= after:
            # an engine that begins to read there does not know what the site had seen when it deleted a key
            by_server = entry.tag is not None
            found.append(Made(stream_clock(copy, entry.end), START if by_server else seen, operations, by_server))
        if entry.tag is not None:
            seen = max(seen, entry.tag.applied)
    return found


def true_conflicts(pair: SimulatedPair, after: dict[str, int]) -> tuple[set[Unit], set[Unit]]:
    """Every unit over which two writes met that do not commute and of which neither had seen the other.

    And those that a deletion by a server was part of, which the engine may take for a write, or not. `after`: by site,
    an offset (bytes) in its stream at which the full copy was finished.
    """
    x, y = pair.rules.sites
    ours, theirs = (writes_made(pair, site, after=after[site]) for site in (x, y))
    true: set[Unit] = set()
    possible: set[Unit] = set()
    for a in ours:
        for b in theirs:
            if b.clock > a.seen and a.clock > b.seen:
                found = possible if a.by_server or b.by_server else true
                found.update(u for p in a.operations for q in b.operations for u in _in_doubt(p, q))
    return true, possible


def _in_doubt(p: Operation, q: Operation) -> list[Unit]:
    return [] if commute(p.args, p.database, q.args, q.database) else units_in_doubt(p, q)


def differences(pair: SimulatedPair, after: dict[str, int]) -> list[str]:
    """What the log of a drained pair has too much or too little."""
    true, possible = true_conflicts(pair, after)
    logged = {Unit(told.database, told.key, told.element) for told in pair.log}
    known, places = true | possible, {unit.place for unit in true | possible}
    missing = [u for u in true if u not in logged and u.whole not in logged]
    # what begins over an element and grows into the whole key is told of the key
    false = [u for u in logged if u not in known and (u.element is not None or u.place not in places)]
    return [f"not in the log: {u}" for u in missing] + [f"no conflict: {u}" for u in false]

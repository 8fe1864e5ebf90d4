"""Comparing two sites key by key, while clients may be writing to both.

Every database and key in the job's scope is looked at, from both sides. What differs is looked at again in later
rounds, so that a write under way is not taken for a difference. bisync's own keys (`bisync:*`) are no part of it.
"""

import time
from collections.abc import Callable, Iterator, Sequence

import attrs

from bisync.comparison import Difference, Place, compare
from bisync.config import Job
from bisync.core.patterns import Scope
from bisync.runtime.control import Control

BATCH = 256  # keys that are compared in one round trip
CANDIDATES = 50_000  # keys waiting to be looked at again; beyond it the scan pauses for them, so memory is bounded
LISTED = 1000  # differences that a verdict lists; it counts all
TRIES = 8  # quick looks at the end of the last round: a key that is written all the time is equal only at moments
TIMEOUT_S = 60.0  # for one round trip: a busy server may need long for a large value

Progress = Callable[[int, int], None]
"""Called with the number of keys looked at, at both sites together, and their expected total."""


@attrs.frozen
class Verdict:
    """What came out."""

    equal: bool
    compared: int  # keys that were looked at; one that is at both sites counts once
    different: int  # keys that differ
    differences: tuple[Difference, ...]  # the first of them, at most as many as were asked for


@attrs.define
class _Tally:
    """What is known so far, and what is to be looked at again."""

    compared: int = 0
    different: int = 0
    listed: list[Difference] = attrs.field(factory=list)
    candidates: list[tuple[int, bytes]] = attrs.field(factory=list)  # (database at the source, key)
    found_at: float = 0.0  # when the newest candidate was found, on the monotonic clock


def verify(
    job: Job,
    *,
    tolerance_ms: int = 2000,
    rounds: int = 3,
    pause_s: float = 1.0,
    listed: int = LISTED,
    progress: Progress | None = None,
    each: Callable[[Difference], None] = lambda difference: None,
) -> Verdict:
    """Compare the job's two sites. Waits, for minutes if there are millions of keys: call it in a worker thread.

    A difference counts if it is found in each of `rounds` looks, `pause_s` seconds or more apart; give more rounds
    where bisync lags behind by more than that. Expiries may be `tolerance_ms` apart, and a key that is missing at one
    site is no difference where its time is up, or will be within the tolerance, at the other. `each` is called with
    every difference that counts, also with those that the verdict does not list.

    Raises SiteError where a site cannot be read.
    """
    with Control(job.source, timeout_s=TIMEOUT_S) as source, Control(job.target, timeout_s=TIMEOUT_S) as target:
        scan = Scan(source, target, job.objects, progress)
        return _Comparison(scan, tolerance_ms, rounds, pause_s, listed, each).run()


@attrs.define
class Scan:
    """The keys of both sites that are in a scope, page by page."""

    source: Control
    target: Control
    scope: Scope
    progress: Progress | None = None
    looked_at: int = 0  # keys, at both sites together
    total: int = 0  # how many there are about

    def databases(self) -> Iterator[tuple[Place, Place]]:
        """Each database that holds keys at one of the sites, at the source and at the target."""
        here, there = self.source.databases(), self.target.databases()
        back = self.scope.inverted()
        wanted = {db for db in here if self.scope.target_database(db) is not None}
        wanted |= {db for t in there if (db := back.target_database(t)) is not None}
        images = {db: t for db in sorted(wanted) if (t := self.scope.target_database(db)) is not None}
        self.total = sum(here.get(db, 0) + there.get(t, 0) for db, t in images.items())
        for db, image in images.items():
            yield Place(self.source, db), Place(self.target, image)

    def keys(self, place: Place) -> Iterator[list[bytes]]:
        """The keys of a database that are in scope, without repeats within a page of at most `BATCH`."""
        scope = self.scope if place.control is self.source else self.scope.inverted()
        cursor: bytes | int = 0
        while cursor != b"0":
            cursor, page = place.control.call("SCAN", cursor, "COUNT", BATCH, db=place.database)
            keys = [key for key in dict.fromkeys(page) if scope.holds(place.database, key)]
            for at in range(0, len(keys), BATCH):  # a page may be larger than asked for
                yield keys[at : at + BATCH]
            self.looked_at += len(page)
            if self.progress is not None:
                self.total = max(self.total, self.looked_at)
                self.progress(self.looked_at, self.total)


def missing_of(keys: Sequence[bytes], place: Place) -> list[bytes]:
    """Those of the keys that are not there."""
    present = place.control.call_all([("EXISTS", key) for key in keys], db=place.database)
    return [key for key, n in zip(keys, present, strict=True) if not n]


@attrs.define
class _Comparison:
    scan: Scan
    tolerance_ms: int
    rounds: int
    pause_s: float
    listed: int
    each: Callable[[Difference], None]
    tally: _Tally = attrs.field(factory=_Tally)

    def run(self) -> Verdict:
        for a, b in self.scan.databases():
            for keys in self.scan.keys(a):
                self._compare(a, b, keys)
            for keys in self.scan.keys(b):  # what the source has too has been compared
                self._compare(a, b, missing_of(keys, a))
        self._settle()
        tally = self.tally
        return Verdict(tally.different == 0, tally.compared, tally.different, tuple(tally.listed))

    def _compare(self, a: Place, b: Place, keys: Sequence[bytes]) -> None:
        self.tally.compared += len(keys)
        self._suspect(compare(a, b, keys, tolerance_ms=self.tolerance_ms))

    def _suspect(self, differences: list[Difference]) -> None:
        if differences:
            self.tally.candidates += [(d.database, d.key) for d in differences]
            self.tally.found_at = time.monotonic()
        if len(self.tally.candidates) >= CANDIDATES:
            self._settle()

    def _settle(self) -> None:
        """Look at the candidates again, round by round; what is still different then, is different."""
        candidates, self.tally.candidates = self.tally.candidates, []
        found: list[Difference] = []
        since = self.tally.found_at
        for _ in range(self.rounds - 1):
            if not candidates:
                return
            time.sleep(max(0.0, since + self.pause_s - time.monotonic()))
            found = self._look_again(candidates)
            candidates = [(d.database, d.key) for d in found]
            since = time.monotonic()
        for _ in range(TRIES if len(candidates) <= LISTED else 1):
            if not candidates:
                return
            found = self._look_again(candidates)
            candidates = [(d.database, d.key) for d in found]
        self.tally.different += len(found)
        for difference in found:
            self.each(difference)
        self.tally.listed += found[: self.listed - len(self.tally.listed)]

    def _look_again(self, candidates: list[tuple[int, bytes]]) -> list[Difference]:
        found: list[Difference] = []
        for db, image in {db: self.scan.scope.target_database(db) for db, _ in candidates}.items():
            assert image is not None
            keys = [key for at, key in candidates if at == db]
            a, b = Place(self.scan.source, db), Place(self.scan.target, image)
            for at in range(0, len(keys), BATCH):
                found += compare(a, b, keys[at : at + BATCH], tolerance_ms=self.tolerance_ms)
        return found

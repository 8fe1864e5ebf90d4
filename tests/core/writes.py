"""Operations and pending writes for the tests of detection, and a place where the writes of two sites meet."""

from collections.abc import Iterable, Sequence

from bisync.core import commands
from bisync.core.arbitration import Arbiter
from bisync.core.detection import Detector
from bisync.core.moment import Moment
from bisync.core.operation import Operation
from bisync.core.pending import Pending, PendingWrites
from bisync.core.policy import Contender
from bisync.core.position import START, Clock, stream_clock
from bisync.core.resp import pack
from bisync.core.rules import Rules
from bisync.core.unit import Unit

RULES = Rules("job", "east", "west")
K = Unit(0, b"k")


def operation(line: str | Sequence[bytes], database: int = 0) -> Operation:
    """A command, given as a line of words, in the form in which the core compares it."""
    args = tuple(line.encode().split(b" ")) if isinstance(line, str) else tuple(line)
    args = commands.normalise(args)
    return Operation(args, database, pack(*args), database, commands.row(args[0]))


def at_us(earliest: int, latest: int | None = None) -> Moment:
    """A moment: exact, or between two times."""
    return Moment(earliest, earliest if latest is None else latest)


def write(
    line: str | Sequence[bytes] = "SET k v", time: int | Moment = 0, at: int = 10, seen: Clock = START
) -> Pending:
    """A write of one command that ends at the offset `at` and was made at `time` (µs)."""
    when = time if isinstance(time, Moment) else at_us(time)
    return Pending(stream_clock(0, at), at, [operation(line)], seen, when, 1)


def contender(line: str, site: str, time: int | Moment = 0, at: int = 10) -> Contender:
    """A write that has met another one."""
    made = write(line, time, at)
    return Contender(made.operations[0], made.clock, made.when, site)


class Meeting:
    """Writes of both sites are read and compared, as a pair does it; nothing is sent, so no arbitration ends."""

    def __init__(self, rules: Rules = RULES) -> None:
        self.arbiter = Arbiter(rules, {"east": 100, "west": 200})
        self.detector = Detector(rules, self.arbiter)
        self.pending = {site: PendingWrites() for site in rules.sites}
        self._rules = rules

    def read(self, site: str, mine: Pending) -> None:
        """A write of `site` is read."""
        across = self.pending[self._rules.other(site)]
        for op in mine.operations:
            if len(across):
                self.detector.compare(site, mine, op, across)
            self.arbiter.taint(site, mine.start, op)
            self.arbiter.mark_dirty(site, mine.start, op)
        self.pending[site].add(mine)
        self.arbiter.taint_pending(self.pending)

    def read_all(self, site: str, writes: Iterable[Pending]) -> None:
        """So are several."""
        for mine in writes:
            self.read(site, mine)

    @property
    def units(self) -> set[Unit]:
        """What is being settled."""
        return {a.unit for a in self.arbiter}

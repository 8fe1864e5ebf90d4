"""Saying which units cannot be settled: each once, in the log and among the job's events, and once when it is settled.

The core tries again by itself, and the report has what is stuck at the moment; this is what remains to be read later.
"""

import itertools
from collections.abc import Iterator

import attrs

from bisync.core.arbitration import Arbiter
from bisync.core.unit import Unit
from bisync.status import unit_name
from bisync.text import shown

LOOKED_AT_MAX = 10_000  # open arbitrations; the oldest come first
UNITS_MAX = 1_000  # are told of one by one at the same time
CAUSES_MAX = 5  # of one unit


@attrs.define
class Unsettled:
    """What was said of the units of a job, through all lives of an engine."""

    _causes: dict[Unit, list[str]] = attrs.field(init=False, factory=dict)
    _more: bool = attrs.field(init=False, default=False)  # was it said that there are too many?

    def look(self, arbiter: Arbiter) -> Iterator[tuple[str, str]]:
        """What is new since the last look, as levels and texts. To be called when all streams are being followed."""
        for arbitration in itertools.islice(arbiter, LOOKED_AT_MAX):
            if arbitration.stuck:
                yield from self._stuck(arbitration.unit, arbitration.stuck)
        for unit in [unit for unit in self._causes if arbiter.covering(unit) is None]:
            del self._causes[unit]
            yield "info", f"{_name(unit)} is settled after all"
        self._more = self._more and len(self._causes) >= UNITS_MAX

    def _stuck(self, unit: Unit, why: str) -> Iterator[tuple[str, str]]:
        causes = self._causes.get(unit)
        if causes is None:
            if len(self._causes) >= UNITS_MAX:
                if not self._more:
                    text = f"more than {UNITS_MAX:,} keys or elements cannot be settled; the others are not named"
                    yield "warning", text
                self._more = True
                return
            causes = self._causes[unit] = []
        if why not in causes and len(causes) < CAUSES_MAX:
            causes.append(why)
            again = "both sites may hold different values there; bisync tries again every few seconds"
            yield "warning", f"{_name(unit)} cannot be settled at present ({why}): {again}"


def _name(unit: Unit) -> str:
    element = None if unit.element is None else (unit.element[0], _text(unit.element[1]))
    return unit_name(unit.database, _text(unit.key), element)


def _text(data: bytes) -> str:
    return shown(data) if data else ""

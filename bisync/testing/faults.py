"""Fault plans: what goes wrong in a history, and when. A plan can be drawn from a seed, printed, and repeated.

    plan = FaultPlan.draw(7, seconds=2.0, number=3)
    print(plan)                        # 113 kill 150; 432 freeze 60; 1037 kill 0
    assert FaultPlan.parse(str(plan)) == plan

A plan is carried out on a `Stage`: whoever owns the engine and the sites. The moments are those at which a fault is
*asked for*; how far the system has come by then is up to the machine. So a plan repeats what was done to a system, and
mostly, not always, what came of it.
"""

import random
import threading
import time
from collections.abc import Iterable
from typing import Protocol, Self

import attrs

from bisync.errors import BisyncError


@attrs.frozen
class Kind:
    """One kind of fault."""

    name: str
    of_site: bool  # does it happen to a site? Else to the engine
    lasts: bool  # for some time, after which all is as before?
    local: bool  # does it need the server's process? Only servers on this machine can have it
    meaning: str
    weight: int = 1  # how often it is drawn, beside the others


KINDS: tuple[Kind, ...] = (
    Kind("kill", False, True, False, "SIGKILL to the engine; another one is started after so many ms", 3),
    Kind("stop", False, True, False, "SIGTERM to the engine, which must exit 0; another one after so many ms"),
    Kind("freeze", False, True, False, "SIGSTOP to the engine, SIGCONT after so many ms"),
    Kind("second", False, False, False, "a second engine takes the job; the first one must exit 3"),
    Kind("cut", True, False, False, "all of bisync's connections to the site are closed by the server", 3),
    Kind("pause", True, True, False, "CLIENT PAUSE WRITE for so many ms: the site answers no write", 1),
    Kind("freeze-server", True, True, True, "SIGSTOP to the site's server, SIGCONT after so many ms"),
    Kind("restart-server", True, False, True, "the site's server saves its data, ends and starts again"),
)
"""Every kind of fault."""

_BY_NAME = {kind.name: kind for kind in KINDS}

ANYWHERE: tuple[str, ...] = tuple(kind.name for kind in KINDS if not kind.local)
"""The kinds that need no control of a server's process: for servers that are not ours."""

LASTING_MS = (0, 20, 60, 150)
"""How long a fault lasts when it is drawn, one of these in ms: up to the time that an engine needs to come up."""


@attrs.frozen(order=True)
class Fault:
    """One fault of a plan."""

    at_ms: int  # after the clients began to write
    kind: str  # a name in KINDS
    site: str = ""  # for kinds that happen to a site
    lasts_ms: int = 0  # for kinds that last

    def __str__(self) -> str:
        lasts = str(self.lasts_ms) if _BY_NAME[self.kind].lasts else ""
        return " ".join(word for word in (str(self.at_ms), self.kind, self.site, lasts) if word)

    @classmethod
    def parse(cls, text: str) -> Self:
        """The fault that prints so. Raises BisyncError where there is none."""
        words = text.split()
        kind = _BY_NAME.get(words[1]) if len(words) > 1 else None
        wanted = 2 + (kind.of_site + kind.lasts if kind else 0)
        numbers = [words[0], *words[-1:]] if kind and kind.lasts else words[:1]
        if kind is None or len(words) != wanted or not all(n.isdecimal() and len(n) < 10 for n in numbers):
            names = ", ".join(_BY_NAME)
            hint = f'write it as "250 kill 60", "300 cut east" or "400 pause west 80"; kinds are {names}'
            raise BisyncError(f"{text.strip()[:80]!r} is no fault", why="expected ms, kind, site, ms", hint=hint)
        return cls(int(words[0]), kind.name, words[2] if kind.of_site else "", int(words[-1]) if kind.lasts else 0)


class Stage(Protocol):
    """Where a plan is carried out."""

    def strike(self, fault: Fault, halted: threading.Event) -> None:
        """Let this fault happen, and return when it is over, or at once where `halted` is set meanwhile.

        Whatever was frozen, paused or killed goes on when this returns.
        """


def _in_order(faults: Iterable[Fault]) -> tuple[Fault, ...]:
    return tuple(sorted(faults))


@attrs.frozen
class FaultPlan:
    """Faults in the order of their moments. They happen one after the other; a late one happens at once."""

    faults: tuple[Fault, ...] = attrs.field(default=(), converter=_in_order)

    def __str__(self) -> str:
        return "; ".join(map(str, self.faults)) or "no faults"

    def __len__(self) -> int:
        return len(self.faults)

    @property
    def kinds(self) -> frozenset[str]:
        """The kinds of fault in it."""
        return frozenset(fault.kind for fault in self.faults)

    @property
    def is_local(self) -> bool:
        """Does it need the process of a server?"""
        return any(_BY_NAME[kind].local for kind in self.kinds)

    @classmethod
    def parse(cls, text: str) -> Self:
        """The plan that prints so; an empty text is a plan without faults. Raises BisyncError where it is none."""
        text = text.strip()
        return cls(map(Fault.parse, text.split(";")) if text not in ("", "no faults") else ())

    @classmethod
    def draw(
        cls,
        seed: object,
        *,
        seconds: float,
        number: int,
        kinds: Iterable[str] = ANYWHERE,
        sites: Iterable[str] = ("east", "west"),
    ) -> Self:
        """So many faults of these kinds within the first nine tenths of `seconds`, as the seed says."""
        chance, names = random.Random(f"faults {seed}"), list(sites)
        known = [_BY_NAME[name] for name in kinds]
        faults: list[Fault] = []
        for _ in range(number if known else 0):
            kind = chance.choices(known, [k.weight for k in known])[0]
            at_ms = chance.randrange(max(1, int(seconds * 900)))
            site, lasts_ms = chance.choice(names), chance.choice(LASTING_MS)
            faults.append(Fault(at_ms, kind.name, site if kind.of_site else "", lasts_ms if kind.lasts else 0))
        return cls(faults)

    def carry_out(self, stage: Stage, halted: threading.Event) -> list[Fault]:
        """Let all of it happen, from now on. Ends early once `halted` is set. The faults that happened."""
        began_s, done = time.monotonic(), []
        for fault in self.faults:
            if halted.wait(max(0.0, began_s + fault.at_ms / 1000 - time.monotonic())):
                break
            stage.strike(fault, halted)
            done.append(fault)
        return done

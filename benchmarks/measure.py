"""Repetitions that take turns, so that a machine that is slower for a while is slower for all; median and spread."""

import gc
import statistics
import sys
from collections.abc import Callable, Mapping
from typing import Any

import attrs


@attrs.frozen
class Sample:
    """One measurement. Times in s."""

    commands: int
    wall_s: float
    cpu_s: float  # of the process that did the work
    notes: dict[str, Any] = attrs.field(factory=dict)

    @property
    def per_s(self) -> float:
        """Commands a second, by the clock on the wall."""
        return self.commands / self.wall_s

    @property
    def per_cpu_s(self) -> float:
        """Commands per second of processor time: what a busy machine changes less."""
        return self.commands / self.cpu_s


Variants = Mapping[str, Callable[[], Sample]]
"""By name: what measures it once."""


def take_turns(variants: Variants, repetitions: int) -> dict[str, list[Sample]]:
    """Measure each variant so many times, A B C A B C ..."""
    samples: dict[str, list[Sample]] = {name: [] for name in variants}
    for n in range(repetitions):
        for name, once in variants.items():
            say(f"{n + 1}/{repetitions} {name}")
            gc.collect()
            samples[name].append(once())
    return samples


def say(text: str) -> None:
    """Progress, on standard error."""
    print(text, file=sys.stderr, flush=True)


def median(values: list[float]) -> float:
    """The middle one."""
    return statistics.median(values)


def ratios(ours: list[Sample], base: list[Sample]) -> list[float]:
    """Of each turn: processor time for a command in the base, over that in ours. 1: no dearer; 0.5: twice as dear."""
    return [a.per_cpu_s / b.per_cpu_s for a, b in zip(ours, base, strict=True)]


def document(samples: Mapping[str, list[Sample]], bases: Mapping[str, str]) -> dict[str, Any]:
    """Medians, spreads and every figure. `bases`: to which other variant each one is compared."""
    found: dict[str, Any] = {}
    for name, taken in samples.items():
        found[name] = {
            "commands": taken[0].commands,
            "per_s": _summary([s.per_s for s in taken]),
            "per_cpu_s": _summary([s.per_cpu_s for s in taken]),
            "notes": {key: median([s.notes[key] for s in taken]) for key in taken[0].notes},
        }
        if name in bases:
            found[name]["ratio"] = {"to": bases[name], **_summary(ratios(taken, samples[bases[name]]), 3)}
    return found


def _summary(values: list[float], digits: int = 0) -> dict[str, Any]:
    rounded = [round(v, digits) if digits else round(v) for v in values]
    middle = median(values)
    return {
        "median": round(middle, digits) if digits else round(middle),
        "least": min(rounded),
        "most": max(rounded),
        "all": rounded,
    }


def table(title: str, found: Mapping[str, Any]) -> str:
    """The same for people."""
    width = max(map(len, found))
    lines = [title, f"{'':{width}}  {'commands':>9}  {'commands/s':>24}  {'per s of processor':>24}  ratio"]
    for name, one in found.items():
        told = [f"{key} {value:,.4g}" for key, value in one["notes"].items()]
        if ratio := one.get("ratio"):
            told.insert(0, f"{ratio['median']:.2f} ({ratio['least']:.2f}..{ratio['most']:.2f}) of {ratio['to']}")
        rates = f"{_spread(one['per_s'])}  {_spread(one['per_cpu_s'])}"
        lines.append(f"{name:{width}}  {one['commands']:>9,}  {rates}  {'; '.join(told)}")
    return "\n".join(lines)


def _spread(summary: Mapping[str, Any]) -> str:
    return f"{summary['median']:>9,} ({summary['least']:,}..{summary['most']:,})".rjust(24)

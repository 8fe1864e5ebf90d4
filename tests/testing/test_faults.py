"""Fault plans: drawn from a seed, printed, read again, carried out in order."""

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bisync.errors import BisyncError
from bisync.testing.faults import ANYWHERE, KINDS, Fault, FaultPlan

ALL = tuple(kind.name for kind in KINDS)


class Recorder:
    """A stage that only remembers."""

    def __init__(self, halt_at: int = -1) -> None:
        self.struck: list[Fault] = []
        self._halt_at = halt_at

    def strike(self, fault: Fault, halted: threading.Event) -> None:
        self.struck.append(fault)
        if len(self.struck) == self._halt_at:
            halted.set()


@given(st.integers(), st.integers(0, 8), st.sampled_from([ALL, ANYWHERE, ("kill",)]))
def test_a_plan_reads_as_it_prints_and_a_seed_has_one_plan(seed: int, number: int, kinds: tuple[str, ...]) -> None:
    plan = FaultPlan.draw(seed, seconds=2.0, number=number, kinds=kinds)
    assert FaultPlan.parse(str(plan)) == plan == FaultPlan.draw(seed, seconds=2.0, number=number, kinds=kinds)
    assert len(plan) == number and plan.kinds <= set(kinds)
    assert list(plan.faults) == sorted(plan.faults) and all(0 <= fault.at_ms < 1800 for fault in plan.faults)


def test_every_kind_is_drawn_and_those_of_servers_are_told_apart() -> None:
    assert FaultPlan.draw(1, seconds=1, number=300, kinds=ALL).kinds == set(ALL)
    assert not FaultPlan.draw(1, seconds=1, number=300).is_local
    assert FaultPlan.parse("1 restart-server west").is_local


@pytest.mark.parametrize(
    "text",
    [
        "kill",
        "5",
        "x kill 5",
        "5 kill",
        "5 kill x",
        "5 kill 6 7",
        "5 explode 6",
        "5 cut",
        "5 pause west",
        "-1 kill 5",
        ";",
    ],
)
def test_what_is_no_fault_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(BisyncError, match="is no fault.*Next: write it as"):
        FaultPlan.parse(text)


def test_faults_happen_in_order_and_end_when_all_is_over() -> None:
    plan = FaultPlan.parse("9 kill 0; 2 cut east; 5 cut west")
    stage = Recorder()
    assert plan.carry_out(stage, threading.Event()) == stage.struck == list(plan.faults)
    assert [str(fault) for fault in stage.struck] == ["2 cut east", "5 cut west", "9 kill 0"]
    assert len(plan.carry_out(Recorder(halt_at=2), threading.Event())) == 2
    assert FaultPlan.parse(str(FaultPlan())) == FaultPlan.parse("") == FaultPlan()

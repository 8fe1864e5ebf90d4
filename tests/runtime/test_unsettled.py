"""Events of units that cannot be settled: one for each cause, and one when it is over."""

import attrs

from bisync.core.unit import Arbitration, Unit
from bisync.runtime.unsettled import CAUSES_MAX, UNITS_MAX, Unsettled


@attrs.define
class Open(dict[Unit, Arbitration]):
    """As much of the core's arbiter as is looked at."""

    def __iter__(self):  # type: ignore[no-untyped-def]
        return iter(self.values())

    def covering(self, unit: Unit) -> Arbitration | None:
        return self.get(unit.whole) or self.get(unit)

    def put(self, unit: Unit, why: str = "") -> None:
        self[unit] = Arbitration(unit, "east", None, {}, stuck=why)


K, F = Unit(0, b"k"), Unit(3, b"h", ("hash", b"f"))
AGAIN = "both sites may hold different values there; bisync tries again every few seconds"


def look(told: Unsettled, arbiter: Open) -> list[tuple[str, str]]:
    return list(told.look(arbiter))  # type: ignore[arg-type]


def test_each_unit_and_each_cause_is_told_once_and_that_it_is_over() -> None:
    told, arbiter = Unsettled(), Open()
    arbiter.put(K)
    assert look(told, arbiter) == [], "it is simply under way"
    arbiter.put(K, "west: OOM")
    arbiter.put(F, "west: OOM")
    assert look(told, arbiter) == [
        ("warning", f"'k' in database 0 cannot be settled at present (west: OOM): {AGAIN}"),
        ("warning", f"field 'f' of 'h' in database 3 cannot be settled at present (west: OOM): {AGAIN}"),
    ]
    assert look(told, arbiter) == []
    arbiter.put(K, "west: NOPERM")
    assert [text.partition(": NO")[2][:4] for _, text in look(told, arbiter)] == ["PERM"]
    arbiter.put(K, "west: OOM")
    assert look(told, arbiter) == [], "said before"
    del arbiter[K]
    assert look(told, arbiter) == [("info", "'k' in database 0 is settled after all")]
    assert look(told, arbiter) == []
    arbiter.put(K, "west: OOM")
    assert len(look(told, arbiter)) == 1, "another arbitration"


def test_an_element_that_its_whole_key_took_in_is_settled_with_it() -> None:
    told, arbiter = Unsettled(), Open()
    arbiter.put(F, "west: OOM")
    look(told, arbiter)
    del arbiter[F]
    arbiter.put(F.whole)
    assert look(told, arbiter) == []
    del arbiter[F.whole]
    assert look(told, arbiter) == [("info", "field 'f' of 'h' in database 3 is settled after all")]


def test_what_is_told_is_bounded() -> None:
    told, arbiter = Unsettled(), Open()
    for n in range(UNITS_MAX + 50):
        arbiter.put(Unit(0, b"%d" % n), "why")
    texts = look(told, arbiter)
    assert len(texts) == UNITS_MAX + 1 and texts[-1][1].startswith("more than 1,000 keys")
    assert look(told, arbiter) == []
    for n in range(CAUSES_MAX + 5):
        arbiter.put(Unit(0, b"0"), f"cause {n}")
        assert len(look(told, arbiter)) == (n < CAUSES_MAX - 1)
    arbiter.put(Unit(0, b"l" * 10_000), "why")
    del arbiter[Unit(0, b"1")], arbiter[Unit(0, b"2")]
    assert all(len(text) < 500 for _, text in look(told, arbiter))

"""How many keys the comparison of an engine looks at at once, under the limits of the job."""

from collections.abc import Collection, Sequence
from typing import Any

import attrs
import pytest

from bisync.reconcile import AGAIN, REST_S, _Comparing
from bisync.verify import BATCH


@attrs.define
class SlowDesk:
    """Each key costs so much waiting before the next look."""

    key_s: float
    looks: list[int] = attrs.field(factory=list)

    def rest(self) -> float:
        return self.looks[-1] * self.key_s if self.looks else 0.0

    def watch(self, places: Sequence[Any]) -> None: ...

    def judge(
        self, places: Sequence[Any], unequal: Sequence[Any], ends: dict[str, int], *, last: bool
    ) -> Collection[Any]:
        return ()

    def read(self, site: str, commands: int, size: int) -> None: ...

    def progress(self, done: int, total: int) -> None: ...


def looks(desk: SlowDesk, keys: int, most: int = BATCH) -> _Comparing:
    """Look at so many keys, of which none is looked at twice or left out."""
    comparing = _Comparing(None, None, desk)  # type: ignore[arg-type]
    names = [b"%d" % n for n in range(keys)]
    seen: list[bytes] = []
    for some in comparing._looks(names, most):
        desk.looks.append(len(some))
        seen += some
    assert seen == names
    return comparing


def test_without_limits_they_grow_to_the_most_at_once() -> None:
    desk = SlowDesk(0.0)
    looks(desk, 2_000)
    assert desk.looks[0] <= 2 * AGAIN and set(desk.looks[4:-1]) == {BATCH}


@pytest.mark.parametrize("key_s", [0.002, 0.01, 0.1, 0.3])
def test_with_limits_each_is_waited_for_within_a_moment(key_s: float) -> None:
    desk = SlowDesk(key_s)
    looks(desk, 2_000)
    assert max(desk.looks[8:]) * key_s <= 2 * REST_S[0]
    assert min(desk.looks[8:-1]) * key_s >= REST_S[0] / 2, "nor are they smaller than they must be"


def test_one_key_is_looked_at_whatever_it_costs() -> None:
    desk = SlowDesk(1_000.0)
    looks(desk, 200)
    assert set(desk.looks[6:]) == {1}


def test_a_few_keys_that_are_looked_at_again_do_not_make_the_others_more() -> None:
    desk = SlowDesk(0.0)
    assert looks(desk, 500, AGAIN).at_once == AGAIN
    assert max(desk.looks) == AGAIN

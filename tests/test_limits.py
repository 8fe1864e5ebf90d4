"""The limits in force: the job file's, and what was changed since."""

import attrs
import pytest

from bisync.limits import NAMES, Caps, Limits, checked, in_force

FILE = Limits(copy_commands_per_s=100, follow_bytes_per_s=5_000)


def test_what_was_changed_goes_before_the_job_file() -> None:
    assert in_force(FILE, {}) == FILE
    changed = in_force(FILE, {"copy_commands_per_s": 0, "follow_commands_per_s": 7, "copy_yields": 0})
    assert changed == attrs.evolve(FILE, copy_commands_per_s=0, follow_commands_per_s=7, copy_yields=False)
    assert changed.copy_yields is False and in_force(FILE, {"copy_yields": 1}).copy_yields is True


@pytest.mark.parametrize("changed", [{"copy_keys": 3}, {"copy_commands_per_s": -1}, {"copy_bytes_per_s": 3}])
def test_what_another_version_may_have_written_is_left_out(changed: dict[str, int]) -> None:
    assert in_force(FILE, changed) == FILE


def test_each_phase_has_its_caps() -> None:
    assert FILE.caps(copying=True) == Caps(100, 0)
    assert FILE.caps(copying=False) == Caps(0, 5_000)


def test_a_value_is_checked_as_in_the_job_file() -> None:
    assert [checked(name, getattr(Limits(), name)) for name in NAMES] == [0, 0, 0, 0, True]
    with pytest.raises(ValueError, match="expected a whole number of bytes from 1,024 to"):
        checked("copy_bytes_per_s", 1)

"""Fixtures of the tests of bad days."""

import pathlib
import subprocess
from collections.abc import Iterator

import pytest

from tests.bad_days.harness import SmallDisk, is_root


@pytest.fixture
def small_disk(tmp_path: pathlib.Path) -> Iterator[SmallDisk]:
    """A disk of 1 MiB."""
    if not is_root():
        pytest.skip("only root may mount a small disk to fill it")
    try:
        disk = SmallDisk(tmp_path / "disk").__enter__()
    except (OSError, subprocess.CalledProcessError) as e:
        pytest.skip(f"a small disk cannot be mounted here: {e}")
    try:
        yield disk
    finally:
        disk.__exit__()

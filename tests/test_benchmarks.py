"""The benchmarks run: small ones, once. What they measure is no business of a test."""

import json
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]


@pytest.mark.slow
def test_the_benchmark_of_detection_runs_and_says_what_it_found() -> None:
    words = [sys.executable, "-m", "benchmarks.detection", "--quick", "--json"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=170)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert found.pop("machine")["processors"] > 0
    assert len(found) == 4
    for title, variants in found.items():
        for name, one in variants.items():
            assert one["per_s"]["median"] > 0, (title, name)
            assert one["per_cpu_s"]["all"], (title, name)
        assert any("ratio" in one for one in variants.values()), title
    disjoint = found["real servers, catching up"].values()
    assert all(one["notes"]["conflicts"] == 0 for one in disjoint), "conflicts on the way: the figures mean nothing"

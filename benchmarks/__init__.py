"""Benchmarks: what bisync costs, as ratios measured within one run. They hold no time limits and are no tests."""

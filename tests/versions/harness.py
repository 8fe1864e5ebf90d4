"""Which servers there are, and two sites of different versions with a job between them.

The programs lie in `.servers/<name>-<version>/`, where `deploy/get-servers` puts them. `make test-versions` sets
BISYNC_VERSIONS=all: then every pair is tested; else only a few. A server that is not there is a skipped test that says
how to get it.
"""

import functools
import json
import os
import pathlib
import signal
from collections.abc import Sequence
from typing import Any

import pytest

from bisync.testing.servers import LocalServer, kept_servers, program_version
from tests.system.world import World, bisync
from tests.versions.contents import build, known_commands
from tests.versions.reading import differences, read_site

ROOT = pathlib.Path(__file__).parents[2]
ALL = os.environ.get("BISYNC_VERSIONS") == "all"
RELEASES = (
    *("redis-2.8", "redis-3.2", "redis-5.0", "redis-6.2", "redis-7.0", "redis-8.0", "redis-8.10"),
    *("valkey-8.1", "valkey-9"),
)
"""The names that deploy/get-servers knows. A release may be there in any of its versions."""

SNAPSHOTS = {
    **{"redis-2.8": 6, "redis-3.2": 7, "redis-5.0": 9, "redis-6.2": 9, "redis-7.0": 10, "redis-8.0": 12},
    **{"redis-8.10": 15, "valkey-8.1": 11, "valkey-9": 80},
}
"""By release: the newest RDB version that its RESTORE takes."""


def reads(target: str, source: str) -> bool:
    """Does the target's RESTORE take what the source's snapshot holds? Valkey took leave of Redis after version 11."""
    if source.startswith("redis") and target == "valkey-9":
        return SNAPSHOTS[source] <= SNAPSHOTS["valkey-8.1"]
    return SNAPSHOTS[source] <= SNAPSHOTS[target]


@functools.cache
def programs() -> dict[str, str]:
    """By release: the newest program of it that is there."""
    found = {}
    for name, program in kept_servers(ROOT / ".servers").items():
        for release in RELEASES:
            if name.startswith(f"{release}."):
                found[release] = program
    return found


def program(release: str) -> str:
    """Its program; skips the test where there is none."""
    if release not in programs():
        pytest.skip(f"{release} is not in .servers: deploy/get-servers {release}")
    return programs()[release]


def chosen(pairs: Sequence[tuple[str, str]], *, quick: Sequence[tuple[str, str]]) -> list[Any]:
    """The pairs that this run tests, as parameters with readable names: all, or those that are quick."""
    return [pytest.param(*pair, id=" to ".join(pair)) for pair in (pairs if ALL else quick)]


def options(path: str) -> tuple[str, ...]:
    """The words of the command line that a server of this version needs."""
    return ("--enable-debug-command", "yes") if program_version(path) >= (7, 0) else ()


class MixedWorld(World):
    """Two sites of different releases: east of `first`, west of `second`."""

    def __init__(
        self,
        folder: pathlib.Path,
        first: str,
        second: str,
        *,
        topology: str = "bidirectional",
        east: tuple[str, ...] = (),
    ) -> None:
        """`east` are more options of the first server."""
        super().__init__(folder, topology=topology)
        paths = program(first), program(second)
        self.east = LocalServer(folder / "east", *options(paths[0]), *east, program=paths[0])
        self.west = LocalServer(folder / "west", *options(paths[1]), program=paths[1])
        self.servers = {"east": self.east, "west": self.west}
        self.whole = reads(second, first)

    def build(self) -> None:
        """Fill east with all that both servers can have."""
        build(self.east, self.known, whole=self.whole)

    @functools.cached_property
    def known(self) -> frozenset[str]:
        """The commands that both servers know."""
        return known_commands(self.east) & known_commands(self.west)

    def assert_precheck_passes(self) -> None:
        """No check says that the job would fail."""
        told = json.loads(bisync("precheck", self.job_file, "--json").stdout)
        failed = [check for check in told["checks"] if check["result"] == "failed"]
        assert not failed, failed

    def assert_sites_equal(self) -> int:
        """Both hold the same, by reading all of it and by `bisync verify`. The number of keys."""
        east, west = read_site(self.east), read_site(self.west)
        found = differences(east, west)
        assert not found, f"{len(found)} differences: {found[:8]}"
        self.assert_equal(all_keys=False)
        return len(east)

    def stop_site(self, name: str) -> None:
        """End a server for good, as one that is taken out of service."""
        self.servers[name].stop(signal.SIGTERM)

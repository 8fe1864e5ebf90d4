"""What several tests of the runtime need: servers of whichever version is on PATH, and a store."""

import pathlib
from collections.abc import Iterator

import pytest

from bisync.runtime.store import Store
from tests.runtime.command_servers import Server, two_servers


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Server]]:
    """Two empty servers. What they do not know is skipped, and says so."""
    with two_servers(tmp_path_factory.mktemp("commands")) as pair:
        yield pair


@pytest.fixture
def path(tmp_path: pathlib.Path) -> pathlib.Path:
    """Where the store is."""
    return tmp_path / "orders.db"


@pytest.fixture
def store(path: pathlib.Path) -> Iterator[Store]:
    """An open one, empty."""
    with Store.open(path) as s:
        yield s

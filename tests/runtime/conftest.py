"""Servers for the tests of commands: whichever version is on PATH; what it does not know is skipped, and says so."""

from collections.abc import Iterator

import pytest

from tests.runtime.command_servers import Server, two_servers


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Server]]:
    """Two empty servers."""
    with two_servers(tmp_path_factory.mktemp("commands")) as pair:
        yield pair

"""Our patterns and those of a real server choose the same keys."""

import itertools
import pathlib
from collections.abc import Iterator

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bisync.core.patterns import compile_patterns
from bisync.testing.servers import local_servers

ALPHABET = b"ab-]^\\*["
# Not the empty key: the server matches it with a lone `*` only, which the module names as a difference.
KEYS = [bytes(key) for length in (1, 2, 3) for key in itertools.product(ALPHABET, repeat=length)] + [b"\n", b"a\n"]


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator["redis.Redis"]:
    """A server that holds every short key over the alphabet."""
    folder: pathlib.Path = tmp_path_factory.mktemp("patterns")
    with local_servers(folder, "one") as (server,), server.client() as connected:
        connected.mset({key: b"" for key in KEYS})
        yield connected


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pattern=st.lists(st.sampled_from([*ALPHABET, *b"?*[]a"]), max_size=8).map(bytes))
def test_pattern_chooses_the_keys_that_the_server_chooses(client: "redis.Redis", pattern: bytes) -> None:
    compiled = compile_patterns(pattern)
    assert sorted(key for key in KEYS if compiled.fullmatch(key)) == sorted(client.keys(pattern))

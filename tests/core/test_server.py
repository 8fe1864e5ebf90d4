"""What is known of a server."""

import pytest

from bisync.core.server import Server


@pytest.mark.parametrize(
    ("version", "asked", "expected"),
    [((7, 0, 15), (6, 2), True), ((6, 0, 9), (6, 2), False), ((6, 2), (6, 2), True), ((2, 8, 17), (3, 0), False)],
)
def test_a_server_knows_what_came_before_it(version: tuple[int, ...], asked: tuple[int, ...], expected: bool) -> None:
    assert Server(version).since(*asked) is expected


def test_one_of_which_nothing_is_known_is_new_enough() -> None:
    assert Server().since(99)
    assert Server().payload_version is None

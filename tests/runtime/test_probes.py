"""The samples by which the precheck learns what an account may do."""

from collections.abc import Iterator

import pytest

from bisync.config import Site
from bisync.core.commands import ROWS
from bisync.endpoint import read_url
from bisync.runtime import probes
from bisync.runtime.control import Control, Refusal, Reply
from bisync.runtime.probes import APPLIED, BEATING, COPYING, READ, SETTLING, WHOLE, about, applied
from bisync.testing.servers import LocalServer, local_servers

ALL = {**APPLIED, **WHOLE, **READ, **SETTLING, **COPYING, **BEATING}
BY_OLD_SERVERS = {"EVAL", "EVALSHA", "SCRIPT"}
CHANGED = {"RESTORE-ASKING"}  # into RESTORE


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServer]:
    with local_servers(tmp_path_factory.mktemp("probes"), "one") as [one]:
        yield one


def test_there_is_one_for_every_command_that_may_be_applied() -> None:
    named = {row.name.decode() for row in ROWS if row.handling in ("copied", "changed")}
    assert named - {name.split()[0] for name in {**APPLIED, **WHOLE}} == BY_OLD_SERVERS | CHANGED
    assert set(WHOLE) == {name for names in probes._POLICIES.values() for name in names}


def test_what_the_job_does_not_pass_on_is_not_tried() -> None:
    assert applied(()) == APPLIED
    assert set(applied(["publish"])) - set(APPLIED) == {"PUBLISH", "SPUBLISH"}


def replies(server: LocalServer, samples: dict[str, probes.Words], account: str = "") -> dict[str, Reply]:
    """What the server says to each sample in a transaction that is discarded."""
    with Control(Site("one", read_url(server.url.replace("//", f"//{account}")))) as control:
        queue = [("MULTI",), *(about(words, b"k", "orders") for words in samples.values()), ("DISCARD",)]
        return dict(zip(samples, control.batch(queue)[1:-1], strict=True))


def test_the_server_queues_each_and_nothing_is_done(server: LocalServer) -> None:
    with server.client() as client:
        client.set("k", "v")
        before = client.info("persistence")["rdb_changes_since_last_save"]
        for name, reply in replies(server, ALL).items():
            assert reply == b"QUEUED" or (isinstance(reply, Refusal) and reply.unknown), (name, reply)
        assert client.info("persistence")["rdb_changes_since_last_save"] == before


def test_categories_are_those_of_the_server(server: LocalServer) -> None:
    with server.client() as client:
        client.execute_command("ACL", "SETUSER", "guest", "on", ">x", "~*", "&*", "+multi", "+discard", "+@write")
    said = replies(server, {**APPLIED, **WHOLE}, "guest:x@")
    denied = {name for name, reply in said.items() if isinstance(reply, Refusal) and reply.denied}
    assert denied == {"PFCOUNT", "PUBLISH", "SPUBLISH"}
    assert not denied & probes.WRITES


def test_keys_are_put_in() -> None:
    assert about(("SET", "{own}", "{key}", "-"), b"k", "orders") == ("SET", b"bisync:orders:open", b"k", "-")

"""Each check of the precheck, on real servers that have what the check is for."""

import json
import pathlib
import signal
import socket
import time
from collections.abc import Iterator

import attrs
import pytest
from click.testing import CliRunner

from bisync import checks
from bisync import precheck as module
from bisync.checks import Finding, Side
from bisync.cli.precheck import command
from bisync.config import load_job
from bisync.core.tag import Tag, tag_key
from bisync.precheck import Check, precheck
from bisync.runtime.control import Refusal
from bisync.runtime.survey import Questions, Survey
from bisync.testing.servers import LocalServer, free_port, local_servers

SECRET = "open-sesame"
TAG = tag_key("orders", "forward")


@attrs.frozen
class Pair:
    """Two servers and a folder for the job file."""

    east: LocalServer
    west: LocalServer
    folder: pathlib.Path

    def job_file(self, topology: str = "bidirectional", east: str = "", west: str = "", more: str = "") -> pathlib.Path:
        file = self.folder / "orders.toml"
        file.write_text(f"""name = "orders"
topology = "{topology}"
[sites.east]
url = "{east or self.east.url}"
[sites.west]
url = "{west or self.west.url}"
{more}
""")
        return file

    def checks(self, **options: str) -> dict[tuple[str, str | None], Check]:
        found = precheck(load_job(self.job_file(**options)))
        by_name = {(c.name, c.site): c for c in found}
        assert len(by_name) == len(found)
        assert all(c.reason for c in found)
        assert all(c.remedy for c in found if c.result in ("warning", "failed")), "a next step for everything"
        assert SECRET not in str(found)
        return by_name


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[LocalServer]]:
    with local_servers(tmp_path_factory.mktemp("precheck"), "east", "west") as both:
        yield both


@pytest.fixture
def pair(servers: list[LocalServer], tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Pair:
    monkeypatch.setattr("bisync.runtime.survey.RATE_SAMPLE_S", 0.01)
    for server in servers:
        with server.client() as client:
            client.replicaof("NO", "ONE")
            client.flushall()
            client.config_set("maxmemory", 0)
            client.config_set("maxmemory-policy", "noeviction")
            client.config_set("repl-backlog-size", "64mb")
            client.execute_command("ACL", "DELUSER", "guest")
    return Pair(*servers, tmp_path)


def account(server: LocalServer, *rules: str) -> str:
    """The url of an account that has these rights only."""
    with server.client() as client:
        client.execute_command("ACL", "SETUSER", "guest", "on", f">{SECRET}", *rules)
    return f"redis://guest:{SECRET}@127.0.0.1:{server.port}"


@pytest.mark.parametrize("topology", ["one-way", "bidirectional"])
def test_two_good_servers_pass_all_checks(pair: Pair, topology: str) -> None:
    checks = pair.checks(topology=topology)
    assert {c.result for c in checks.values()} == {"ok"}, checks
    for site in ("east", "west"):
        assert {name for name, at in checks if at == site} == {"reachable", "password", *module.SITE_CHECKS}


def test_nothing_is_changed_and_no_snapshot_is_taken(pair: Pair) -> None:
    for server in (pair.east, pair.west):
        with server.client() as client:
            client.set("bisync:orders:tag:reverse", Tag("orders", 1, "e").encode())
            client.set(TAG, Tag("orders", 1, "e").encode())
            client.set("bisync-precheck", "a user's key")
    before = [s.client().info("everything") for s in (pair.east, pair.west)]
    contents = [{k: s.client().dump(k) for k in s.client().keys()} for s in (pair.east, pair.west)]
    pair.checks()
    for server, was, held in zip((pair.east, pair.west), before, contents):
        now = server.client().info("everything")
        for field in (
            "sync_full",
            "sync_partial_err",
            "rdb_changes_since_last_save",
            "total_forks",
            "master_repl_offset",
        ):
            assert now[field] == was[field], field
        assert {k: server.client().dump(k) for k in server.client().keys()} == held


def test_an_unreachable_site_fails_and_the_rest_is_not_checked(pair: Pair) -> None:
    checks = pair.checks(west=f"redis://127.0.0.1:{free_port()}")
    assert checks["reachable", "west"].result == "failed"
    assert {c.result for (name, at), c in checks.items() if at == "west" and name != "reachable"} == {"not-checked"}
    assert {c.result for (_, at), c in checks.items() if at == "east"} == {"ok"}
    assert {c.result for (_, at), c in checks.items() if at is None} == {"not-checked"}


def test_a_port_that_does_not_answer_is_unreachable(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setitem(module.survey.__kwdefaults__, "timeout_s", 0.1)
        found = pair.checks(west=f"redis://127.0.0.1:{silent.getsockname()[1]}")["reachable", "west"]
    assert found.result == "failed" and "did not answer in time" in found.reason


def test_a_wrong_password_is_reachable_but_refused(pair: Pair) -> None:
    account(pair.west, "+@all", "~*")
    checks = pair.checks(west=f"redis://guest:wrong-{SECRET}@127.0.0.1:{pair.west.port}")
    assert checks["reachable", "west"].result == "ok"
    assert checks["password", "west"].result == "failed"


def test_a_source_account_may_lack_the_right_to_psync(pair: Pair) -> None:
    url = account(pair.east, "+@all", "-psync", "-replconf", "~*")
    found = pair.checks(east=url)["rights", "east"]
    assert found.result == "failed"
    assert found.remedy == "ACL SETUSER guest +replconf +psync"


def test_a_one_way_source_needs_only_to_be_read(pair: Pair) -> None:
    checks = pair.checks(topology="one-way", east=account(pair.east, "+@read", "+psync", "+replconf", "~*"))
    assert checks["rights", "east"].result == "ok"
    assert checks["eviction", "east"].result == "not-checked"
    assert not [c for c in checks.values() if c.result == "failed"]
    assert pair.checks(topology="bidirectional", east=account(pair.east))["rights", "east"].result == "failed"


@pytest.mark.parametrize("missing", ["set", "del", "restore", "multi", "exec", "watch", "select", "hset"])
def test_a_target_account_may_lack_the_right_to_write(pair: Pair, missing: str) -> None:
    url = account(pair.west, "+@all", f"-{missing}", "~*")
    found = pair.checks(topology="one-way", west=url)["rights", "west"]
    assert found.result == "failed"
    assert found.remedy == f"ACL SETUSER guest +{missing}"


def test_a_target_account_may_not_reach_the_tag(pair: Pair) -> None:
    found = pair.checks(west=account(pair.west, "+@all", "~order:*"))["rights", "west"]
    assert found.result == "failed"
    assert "~bisync:*" in found.remedy and "~*" in found.remedy
    patterns = '[objects]\ninclude = ["order:*"]'
    url = account(pair.west, "~bisync:*")
    assert pair.checks(west=url, more=patterns)["rights", "west"].result == "ok", "only what is copied must be writable"


@pytest.mark.parametrize(
    ("missing", "result", "rule"),
    [
        ("dump", "failed", "+dump"),
        ("hget", "failed", "+hget"),
        ("pexpiretime", "failed", "+pexpiretime"),
        ("eval", "warning", "+eval"),
        ("memory|usage", "warning", "+memory|usage"),
        ("function|dump", "warning", "+function|dump"),
        ("function|restore", "warning", "+function|restore"),
    ],
)
@pytest.mark.parametrize("site", ["east", "west"])
def test_an_account_may_lack_the_right_to_settle_conflicts(
    pair: Pair, site: str, missing: str, result: str, rule: str
) -> None:
    server = getattr(pair, site)
    checks = pair.checks(**{site: account(server, "+@all", f"-{missing}", "~*")})
    found = checks["conflicts", site]
    assert (found.result, found.remedy) == (result, f"ACL SETUSER guest {rule}")
    assert missing.upper().replace("|", " ") in found.reason and "'guest'" in found.reason
    assert checks["rights", site].result == "ok", "that is another question"
    account(server, rule)
    assert pair.checks(**{site: f"redis://guest:{SECRET}@127.0.0.1:{server.port}"})["conflicts", site].result == "ok"
    assert pair.checks(topology="one-way")["conflicts", site].result == "ok"


def test_what_conflicts_need_and_what_only_some_of_them_need_are_allowed_at_once(pair: Pair) -> None:
    url = account(pair.west, "+@all", "-dump", "-eval", "-memory", "~*")
    found = pair.checks(west=url)["conflicts", "west"]
    assert found.result == "failed" and "EVAL" not in found.reason
    assert found.remedy == "ACL SETUSER guest +dump +eval +memory|usage"


def test_a_server_without_scripts_cannot_merge_streams(pair: Pair, tmp_path: pathlib.Path) -> None:
    with local_servers(tmp_path, "plain", options=("--rename-command", "EVAL", "")) as [plain]:
        found = pair.checks(west=plain.url)["conflicts", "west"]
    assert found.result == "warning" and "the server has no EVAL: a stream that both" in found.reason
    assert "rename-command" in found.remedy


@pytest.mark.parametrize(
    ("version", "missing", "result"),
    [
        ("6.2.14", {"FUNCTION DUMP", "FUNCTION RESTORE"}, "ok"),
        ("6.2.14", {"PEXPIRETIME", "FUNCTION DUMP"}, "ok"),
        ("3.2.6", {"PEXPIRETIME", "UNLINK", "FUNCTION DUMP"}, "ok"),
        ("6.2.14", {"PERSIST", "FUNCTION DUMP"}, "failed"),
        ("7.0.15", {"FUNCTION DUMP"}, "warning"),
    ],
)
def test_a_server_too_old_for_a_feature_lacks_nothing(pair: Pair, version: str, missing: set[str], result: str) -> None:
    job = load_job(pair.job_file())
    unsettling = {c: Refusal("ERR", f"unknown command '{c}'") for c in missing}
    said = Survey(job.source, info=info(version), unsettling=unsettling)
    found = checks.conflicts(Side(job, Questions(job="orders", reads=True, writes=True, settles=True), said))
    assert found.result == result
    assert "7.0" in found.remedy or result == "ok"


def test_renamed_commands_are_noticed(pair: Pair, tmp_path: pathlib.Path) -> None:
    options = (
        "--rename-command",
        "PSYNC",
        "",
        "--rename-command",
        "RESTORE",
        "hidden",
        "--rename-command",
        "CONFIG",
        "",
    )
    with local_servers(tmp_path, "renamed", options=options) as [renamed]:
        checks = pair.checks(west=renamed.url)
    assert checks["commands", "west"].result == "failed"
    assert "PSYNC" in checks["commands", "west"].reason and "RESTORE" in checks["commands", "west"].reason
    assert "rename-command" in checks["commands", "west"].remedy
    assert checks["databases", None].result == "ok", "counted without CONFIG"


def test_a_target_that_refuses_writes(pair: Pair) -> None:
    with pair.west.client() as client:
        client.config_set("min-replicas-to-write", 1)
        found = pair.checks()["rights", "west"]
        client.config_set("min-replicas-to-write", 0)
    assert found.result == "failed" and "NOREPLICAS" in found.reason


@pytest.mark.parametrize(("setting", "result"), [("refuse", "failed"), ("overwrite", "warning"), ("reconcile", "ok")])
def test_a_target_with_keys_is_not_empty(pair: Pair, setting: str, result: str) -> None:
    pair.west.client(4).set("k\xff", 1)
    found = pair.checks(more=f'[full_copy]\ntarget_not_empty = "{setting}"')["target empty", None]
    assert found.result == result
    assert "empty" in found.reason and "database 4" in found.reason
    if setting == "refuse":
        assert "empty" in found.remedy


def test_keys_that_the_job_would_not_write_do_not_count(pair: Pair) -> None:
    with pair.west.client(4) as client:
        client.mset({"bisync:other:beat": 1, "tmp:1": 1, "customer:1": 1})
    with pair.west.client(3) as client:
        client.set("order:1", 1)
    scope = '[objects]\ndatabases = { 3 = 4 }\ninclude = ["order:*", "tmp:*"]\nexclude = ["tmp:*"]'
    assert pair.checks(more=scope)["target empty", None].result == "ok"
    pair.west.client(4).set("order:1", 1)
    assert pair.checks(more=scope)["target empty", None].result == "failed"


def test_too_many_keys_to_be_sure(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bisync.runtime.survey.SCAN_PAGES", 2)
    pair.west.client().mset({f"other:{n}": n for n in range(2000)})
    found = pair.checks(more='[objects]\ninclude = ["order:*"]')["target empty", None]
    assert found.result == "warning" and "too many keys" in found.reason


def test_a_job_that_is_under_way_needs_no_empty_target(pair: Pair) -> None:
    with pair.west.client() as client:
        client.set("k", 1)
        client.set(TAG, Tag("orders", 7, "engine").encode())
    checks = pair.checks()
    assert checks["target empty", None].result == "ok" and "under way" in checks["target empty", None].reason
    assert checks["tag", "west"].result == "ok" and "epoch 7" in checks["tag", "west"].reason


@pytest.mark.parametrize("value", [b"mine", b"{}", Tag("other", 1, "e").encode()])
def test_a_foreign_value_in_the_tag_key(pair: Pair, value: bytes) -> None:
    pair.west.client().set(TAG, value)
    found = pair.checks()["tag", "west"]
    assert found.result == "failed" and TAG.decode() in found.reason and TAG.decode() in found.remedy
    assert pair.west.client().get(TAG) == value


def test_a_foreign_list_in_the_reverse_tag_key(pair: Pair) -> None:
    pair.east.client().rpush(tag_key("orders", "reverse"), 1)
    assert pair.checks()["tag", "east"].result == "failed"
    assert pair.checks(topology="one-way")["tag", "east"].result == "ok", "one way has no reverse tag"


@pytest.mark.parametrize("topology", ["one-way", "bidirectional"])
@pytest.mark.parametrize("site", ["east", "west"])
def test_eviction_at_either_site_fails(pair: Pair, topology: str, site: str) -> None:
    getattr(pair, site).client().config_set("maxmemory-policy", "allkeys-lru")
    found = pair.checks(topology=topology)["eviction", site]
    assert found.result == "failed"
    assert "allkeys-lru" in found.reason and "noeviction" in found.remedy


@pytest.mark.parametrize("site", ["east", "west"])
def test_eviction_may_be_allowed(pair: Pair, site: str) -> None:
    allowed = "[engine]\nallow_eviction = true"
    getattr(pair, site).client().config_set("maxmemory-policy", "volatile-ttl")
    refused = pair.checks()["eviction", site]
    assert refused.result == "failed" and "allow_eviction = true under [engine]" in refused.remedy
    found = pair.checks(more=allowed)["eviction", site]
    assert found.result == "warning" and "volatile-ttl" in found.reason and "the job allows it" in found.reason
    getattr(pair, site).client().config_set("maxmemory-policy", "noeviction")
    assert pair.checks(more=allowed)["eviction", site].result == "ok"


def test_a_target_without_room(pair: Pair) -> None:
    pair.east.client().set("big", b"x" * 3_000_000)
    held = pair.east.client().info("memory")["used_memory_dataset"]
    pair.west.client().config_set("maxmemory", int(held * 0.9))
    assert pair.checks()["memory", None].result == "failed"
    pair.west.client().config_set("maxmemory", int(held * 1.1))
    assert pair.checks()["memory", None].result == "warning"


def test_a_small_backlog(pair: Pair) -> None:
    pair.west.client().config_set("repl-backlog-size", "1mb")
    found = pair.checks()["backlog", "west"]
    assert found.result == "warning" and found.remedy == "CONFIG SET repl-backlog-size 16mb"
    assert pair.checks(topology="one-way")["backlog", "west"].result == "ok", "the stream there is not read"


def test_one_server_under_two_names(pair: Pair) -> None:
    checks = pair.checks(west=f"redis://localhost:{pair.east.port}")
    assert checks["not the same server", None].result == "failed"


def test_a_replica_as_target_or_in_both_ways(pair: Pair, tmp_path: pathlib.Path) -> None:
    with local_servers(tmp_path, "master") as [master]:
        for side in ("east", "west"):
            server: LocalServer = getattr(pair, side)
            server.client().replicaof("127.0.0.1", master.port)
            found = pair.checks(topology="bidirectional")["role", side]
            assert found.result == "failed" and str(master.port) in found.remedy
            expected = "warning" if side == "east" else "failed"
            assert pair.checks(topology="one-way")["role", side].result == expected
            server.client().replicaof("NO", "ONE")


def test_a_source_that_replicates_from_the_target(pair: Pair) -> None:
    with pair.east.client() as client:
        client.replicaof("127.0.0.1", pair.west.port)
        deadline = time.monotonic() + 20
        while client.info("replication")["master_link_status"] != "up":
            assert time.monotonic() < deadline
    assert pair.checks(topology="one-way")["not the same server", None].result == "failed"


def test_a_mapping_to_a_database_that_the_target_lacks(pair: Pair) -> None:
    found = pair.checks(more="[objects]\ndatabases = { 0 = 0, 3 = 16 }")["databases", None]
    assert found.result == "failed" and "database 16" in found.reason


def test_a_source_with_more_databases(pair: Pair, tmp_path: pathlib.Path) -> None:
    with local_servers(tmp_path, "wide", options=("--databases", "40")) as [wide]:
        assert pair.checks(east=wide.url)["databases", None].result == "warning"
        wide.client(39).set("k", 1)
        assert pair.checks(east=wide.url)["databases", None].result == "failed"


def test_a_node_of_a_cluster(pair: Pair, tmp_path: pathlib.Path) -> None:
    with local_servers(tmp_path, "node", options=("--cluster-enabled", "yes", "--cluster-port", str(free_port()))) as [
        node
    ]:
        assert pair.checks(west=node.url)["cluster", "west"].result == "failed"


def test_a_loading_server_is_not_asked_further(pair: Pair, tmp_path: pathlib.Path) -> None:
    server = LocalServer(tmp_path, "--key-load-delay", "500", "--loading-process-events-interval-bytes", "1024")
    try:
        with server.start().client() as client:
            client.mset({f"k{n}": "x" * 100 for n in range(20_000)})
            client.save()
        server.stop(signal.SIGKILL)
        server.answers = lambda: True  # type: ignore[method-assign]
        server.start()
        deadline = time.monotonic() + 20
        while (found := pair.checks(west=server.url))["reachable", "west"].result != "ok":
            assert time.monotonic() < deadline
    finally:
        server.stop(signal.SIGKILL)
    assert found["loading", "west"].result == "failed"
    assert found["rights", "west"].result == "not-checked"


def test_clocks_apart(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    ahead = "bisync.runtime.survey.time.time"
    real = time.time
    monkeypatch.setattr(ahead, lambda: real() - 90)
    found = pair.checks()["clock", "west"]
    assert found.result == "warning" and "+9" in found.reason


@pytest.mark.parametrize(
    ("east", "west", "result", "shown"),
    [
        ((-0.01, 0.01), (-0.01, 0.01), "ok", "-0.020 to +0.020 s"),
        ((0.0, 0.1), (1.05, 1.2), "ok", "+0.950 to +1.200 s"),
        ((0.0, 0.1), (1.2, 1.3), "warning", "+1.100 to +1.300 s"),
        ((5.0, 5.1), (2.0, 2.1), "warning", "-3.100 to -2.900 s"),
        ((-600.0, -599.9), (-600.0, -599.9), "ok", "-0.100 to +0.100 s"),
        (None, (0.0, 0.1), "not-checked", "TIME"),
        ((0.0, 0.1), None, "not-checked", "TIME"),
    ],
)
def test_clocks_of_the_sites_apart(
    pair: Pair, east: tuple[float, float] | None, west: tuple[float, float] | None, result: str, shown: str
) -> None:
    """Only what is certain, whatever the round trips took, is a warning."""
    job = load_job(pair.job_file())
    asked = Questions(job="orders", reads=True, writes=True)
    sides = [Side(job, asked, Survey(site, ahead_s=ahead)) for site, ahead in zip(job.sites, (east, west))]
    found = checks.clocks(*sides)
    assert found.result == result and shown in found.reason
    assert result != "warning" or "NTP" in found.remedy


def test_the_clocks_of_two_servers_on_this_machine_agree(pair: Pair) -> None:
    found = pair.checks()["clocks", None]
    assert found.result == "ok" and "of west is" in found.reason and "of east" in found.reason


def info(version: str, **more: str) -> dict[str, str]:
    return {"redis_version": version, **more}


@pytest.mark.parametrize(
    ("source", "target", "result"),
    [
        (info("7.0.15"), info("7.0.15"), "ok"),
        (info("6.2.14"), info("8.0.2"), "ok"),
        (info("7.0.15"), info("6.2.14"), "warning"),
        (info("8.0.2"), info("7.2.4", valkey_version="8.1.1"), "warning"),
        (info("6.0.9"), info("5.0.6"), "warning"),
        (info("2.8.17"), info("7.0.15"), "ok"),
    ],
)
def test_formats(pair: Pair, source: dict[str, str], target: dict[str, str], result: str) -> None:
    assert _judged("formats", pair, source, target).result == result


@pytest.mark.parametrize(
    ("source", "target", "said"),
    [
        (info("7.0.15"), info("7.0.11"), "both sites write RDB 10"),
        (
            info("7.0.15"),
            info("8.0.2"),
            "east (Redis 7.0.15, RDB 10) cannot read what west (Redis 8.0.2, RDB 12) dumps",
        ),
        (info("7.4.1"), info("7.2.4", valkey_version="8.1.1"), "west (Valkey 8.1.1, RDB 11) cannot read what east"),
    ],
)
def test_keys_in_conflict_between_unlike_servers(
    pair: Pair, source: dict[str, str], target: dict[str, str], said: str
) -> None:
    found = _judged("conflict copies", pair, source, target)
    assert found.result == "ok" and found.reason.startswith(said)
    assert ("rebuilt from commands" in found.reason) == ("cannot read" in said)


def _judged(check: str, pair: Pair, *infos: dict[str, str]) -> Finding:
    job = load_job(pair.job_file())
    sides = []
    for site, said in zip((job.source, job.target), infos):
        questions = Questions(job=job.name, reads=True, writes=True, settles=True)
        sides.append(Side(job, questions, Survey(site, info=said)))
    return module.PAIR_CHECKS[check](sides[0], sides[1])


def test_command_prints_a_line_for_each_check_and_fails_with_1(pair: Pair) -> None:
    pair.west.client().set("k", 1)
    done = CliRunner().invoke(command, [str(pair.job_file())])
    assert done.exit_code == 1, done.output
    [line] = [x for x in done.output.splitlines() if "target empty" in x]
    assert line.startswith("failed") and "[full_copy]" in line and "\x1b" not in done.output


def test_command_json(pair: Pair) -> None:
    done = CliRunner().invoke(command, [str(pair.job_file()), "--json"])
    report = json.loads(done.stdout)
    assert done.exit_code == 0 and report["ok"] is True
    assert {"name", "site", "result", "reason", "remedy"} == set(report["checks"][0])

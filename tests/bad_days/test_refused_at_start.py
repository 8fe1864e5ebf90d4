"""A job that cannot begin: one clear error with the next step, at `run` and at `precheck`, and nothing is changed."""

import pathlib
import signal
import socket
from collections.abc import Callable
from typing import Any

import pytest

from bisync.core.tag import Tag
from bisync.precheck import precheck
from bisync.testing.servers import free_port
from tests.bad_days.harness import NEW_SECRET, SECRET, BadDay, LockedServer, Meddler, http, listener, silent
from tests.system.world import bisync

pytestmark = pytest.mark.slow


def keys(day: BadDay) -> dict[str, set[bytes]]:
    """The keys of both sites, bisync's own too."""
    found = {}
    for name, server in day.servers.items():
        with server.client() as client:
            found[name] = set(client.keys("*"))
    return found


def test_a_job_file_with_many_mistakes_lists_them_all(tmp_path: pathlib.Path) -> None:
    job = tmp_path / "orders.toml"
    job.write_text(
        'name = "Orders!"\ntopology = "two-ways"\nstroe = "x.db"\n[sites.east]\nurl = "redis://:zq9-pass@"\n'
        '[sites.west]\nurl = "redis://u:zq9-pass@127.0.0.1:70000/x"\n[engine]\nheartbeat = 5\n'
    )
    for command in ("run", "precheck", "status", "wait", "verify", "reset"):
        words = ["--state", "synchronizing"] if command == "wait" else []
        done = bisync(command, job, *words)
        assert done.returncode == 2, done
        assert "Traceback" not in done.stderr and "zq9-" not in done.stdout + done.stderr
        assert f"{job}: 6 mistakes in the job file" in done.stderr, done.stderr
        for words_in in ("name", "'one-way'", "stroe", "no host", "1 to 65535", "no database", "heartbeat_ms"):
            assert words_in in done.stderr, (words_in, done.stderr)
        assert "Next: mend the file" in done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["orders.toml"]


def test_two_sites_with_one_address_are_a_mistake_in_the_job_file(tmp_path: pathlib.Path) -> None:
    job = tmp_path / "orders.toml"
    site = 'url = "redis://:zq9-pass@LOCALHOST:7001"\n'
    job.write_text(
        f'name = "orders"\ntopology = "one-way"\n[sites.a]\n{site}[sites.b]\n{site.replace("LOCALHOST", "localhost")}'
    )
    done = bisync("run", job)
    assert done.returncode == 2 and "expected another server than that of sites.a" in done.stderr
    assert "zq9-" not in done.stderr


Prepare = Callable[[BadDay], Any]


def same_server(day: BadDay) -> None:
    day.urls["west"] = day.urls["east"].replace("127.0.0.1", "localhost")


def wrong_password(day: BadDay) -> None:
    day.urls["west"] = day.urls["west"].replace(SECRET, NEW_SECRET)


def no_password(day: BadDay) -> None:
    day.urls["west"] = day.west.url


def password_where_none_is_set(day: BadDay) -> None:
    day.west.do("CONFIG", "SET", "requirepass", "")
    day.west.password = None  # type: ignore[assignment]


def account(site: str, *rules: str) -> Prepare:
    def prepare(day: BadDay) -> None:
        day.servers[site].do("ACL", "SETUSER", "sync", "on", f">{SECRET}", *rules)
        day.urls[site] = day.servers[site].account_url.replace("//:", "//sync:")

    return prepare


def do(site: str, *words: Any) -> Prepare:
    return lambda day: day.servers[site].do(*words)


def replica(day: BadDay) -> None:
    day.west.do("REPLICAOF", "127.0.0.1", free_port())


def replica_of_the_other(day: BadDay) -> None:
    day.west.do("CONFIG", "SET", "masterauth", SECRET)
    day.west.do("REPLICAOF", "127.0.0.1", day.east.port)


def away(day: BadDay) -> None:
    day.urls["west"] = f"redis://:{SECRET}@127.0.0.1:{free_port()}"


TAG, REVERSE_TAG = "bisync:orders:tag:forward", "bisync:orders:tag:reverse"
TAG_OF_ANOTHER = Tag("other", 4, "e", (0, 1, 5), copied=True).encode().decode()
CASES: dict[str, tuple[Prepare, tuple[str, ...]]] = {
    "same server": (same_server, ("are the same server", "correct the url")),
    "wrong password": (wrong_password, ("west: password:", "refused the password of", "correct user and password")),
    "no password": (no_password, ("west: password:", "put user and password into the site's url")),
    "needless password": (password_where_none_is_set, ("it has none set", "remove the password")),
    "unknown user": (
        lambda day: day.urls.update(east=day.urls["east"].replace("//:", "//nobody:")),
        ("east: password:", "user 'nobody'"),
    ),
    "no right to PSYNC": (account("east", "+@all", "~*", "&*", "-psync"), ("may not use PSYNC", "+psync")),
    "no right to write": (account("west", "+@all", "~*", "&*", "-hset"), ("may not use HSET", "+hset")),
    "no right to the tag": (account("west", "+@all", "~order:*", "~bisync-*", "&*"), ("west: rights:", "~bisync:*")),
    "no right to read the tag": (account("west", "+@all", "~*", "&*", "-get"), ("may not use GET", "+get")),
    "not empty": (do("west", "SET", "mine", "1"), ("the target is not empty", "'mine'", "target_not_empty")),
    "eviction at the target": (do("west", "CONFIG", "SET", "maxmemory-policy", "allkeys-lru"), ("is allkeys-lru",)),
    "eviction at the source": (
        do("east", "CONFIG", "SET", "maxmemory-policy", "volatile-ttl"),
        ("is volatile-ttl", "CONFIG SET maxmemory-policy noeviction"),
    ),
    "a replica": (replica, ("west: role: a replica of", "name its master")),
    "replica of the other": (replica_of_the_other, ("west: role: a replica of",)),
    "nothing listens": (away, ("west: reachable:", "refused the connection", "start the server")),
    "a string in the tag key": (do("west", "SET", TAG, "mine"), ("west: ", TAG, "elete it", "another name")),
    "a hash in the tag key": (do("west", "HSET", TAG, "a", "b"), ("west: ", TAG, "elete it")),
    "a hash in the reverse tag key": (do("east", "HSET", REVERSE_TAG, "a", "b"), ("east: ", REVERSE_TAG, "elete it")),
    "another job's tag": (
        do("west", "SET", TAG, TAG_OF_ANOTHER),
        ("west: ", "other", "elete it"),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_job_that_cannot_begin_says_why_and_changes_nothing(tmp_path: pathlib.Path, case: str) -> None:
    prepare, words = CASES[case]
    with BadDay(tmp_path) as day:
        day.write("east", "kept")
        prepare(day)
        day.write_job_file()
        if case == "replica of the other":
            day.reaches("west", "east:kept")
        before = keys(day)
        day.refused(*words)
        checks = [c for c in precheck(day.job) if c.result == "failed"]
        failed = [f"{c.site or 'both'}: {c.name}: {c.reason} {c.remedy}" for c in checks]
        assert all(any(word in line for line in failed) for word in words), failed
        assert keys(day) == before
        document = day.status()
        assert document["state"] == "precheck-failed" and words[0] in document["reason"], document


def test_several_reasons_are_told_at_once(tmp_path: pathlib.Path) -> None:
    with BadDay(tmp_path) as day:
        day.west.do("SET", "mine", "1")
        day.west.do("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
        day.urls["east"] = day.urls["east"].replace(SECRET, NEW_SECRET)
        day.write_job_file()
        day.refused("3 checks failed", "not empty", "allkeys-lru", "refused the password")


@pytest.mark.parametrize("impostor, site", [(http, "east"), (http, "west"), (silent, "west")])
def test_a_port_that_is_not_redis(tmp_path: pathlib.Path, impostor: Callable[[Any], None], site: str) -> None:
    with BadDay(tmp_path) as day, listener(impostor) as port:
        day.urls[site] = f"redis://:{SECRET}@127.0.0.1:{port}"
        day.rewrite(tables="[engine]\nconnect_timeout_ms = 200\n")
        words = ("it is not Redis", "correct the port") if impostor is http else ("did not answer in time", "firewall")
        day.refused("1 check failed", f"{site}: reachable", f"127.0.0.1:{port}", *words)


def test_a_server_that_sends_garbage_instead_of_a_snapshot(tmp_path: pathlib.Path) -> None:
    with BadDay(tmp_path) as day, Meddler(day.east, lambda data: data) as meddler:
        day.write("east", "kept")
        day.urls["east"] = f"redis://:{SECRET}@127.0.0.1:{meddler.port}"
        day.rewrite(topology="one-way")
        meddler.change = lambda data: b"+FULLRESYNC " + b"a" * 40 + b" 77\r\n$9000\r\n" + b"\x00\xffgarbage" * 1000
        text = day.refused("at byte 0")
        assert "initialize-failed" == day.status()["state"], text
        meddler.change = lambda data: data
        day.finish(day.synchronised_engine())


def listens(port: int) -> bool:
    with socket.socket() as s:
        return s.connect_ex(("127.0.0.1", port)) == 0


def loading(server: LockedServer) -> None:
    """Restart it so that it loads its data until `loaded`."""
    with server.client() as client:
        client.mset({f"bulk:{n}": "x" * 100 for n in range(3000)})
        client.save()
    server.stop(signal.SIGKILL)
    server.options += ("--key-load-delay", "3000", "--loading-process-events-interval-bytes", "1024")
    server.answers = lambda: listens(server.port)  # type: ignore[method-assign]
    server.start()


def test_a_server_that_is_loading(tmp_path: pathlib.Path) -> None:
    with BadDay(tmp_path) as day:
        loading(day.east)
        day.refused("east: loading: still loading its data", "wait until it has")
        day.east.do("CONFIG", "SET", "key-load-delay", 0)
        day.synchronised_engine()

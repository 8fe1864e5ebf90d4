"""The least rights that `docs/security.md` writes down: whole jobs with them, and each of them missing in turn."""

import contextlib
import pathlib
import re
import signal
from collections.abc import Iterator

import pytest

from bisync.config import load_job
from bisync.precheck import Check, precheck
from bisync.testing.servers import LocalServer, local_servers
from tests.system.world import World, bisync, bisync_json, wait_until
from tests.versions.harness import program

MANUAL = pathlib.Path(__file__).parents[2] / "docs" / "security.md"
TWO_WAY, SOURCE, TARGET = "A site of a two-way job", "The source of a one-way job", "The target of a one-way job"
PASSWORD = "zq9-open-sesame"
EXPECTED_DENIALS = {"config|get"}  # asked for the number of databases; found out in another way where it is refused

pytestmark = pytest.mark.slow


def rights(role: str) -> list[str]:
    """The words of the manual's line, after `ACL SETUSER`, with a password."""
    (line,) = re.findall(rf"(?s)### {role}\n\n```\nACL SETUSER ([^\n]+)\n```", MANUAL.read_text())
    return [word if word != ">PASSWORD" else f">{PASSWORD}" for word in line.split()]


ROLES = {name: rights(name) for name in (TWO_WAY, SOURCE, TARGET)}
NEW = "redis-8.0"  # the release from which on vector sets have rights of their own


def more_rights() -> dict[str, list[str]]:
    """By role: the words that servers with vector sets want as well."""
    section = MANUAL.read_text().split("### Redis 8.0 and newer")[1].split("\n##")[0]
    lines = re.findall(r"```\n([^\n]+)\n```", section)
    writes, reads = (re.sub("([()])", r" \1 ", line).split() for line in lines)
    return {TWO_WAY: writes, SOURCE: reads, TARGET: writes}


MORE = more_rights()


def give(server: LocalServer, words: list[str]) -> None:
    """An account with these rights and no others."""
    with server.client() as client:
        client.execute_command("ACL", "DELUSER", words[0])
        client.execute_command("ACL", "SETUSER", *words)


def denials(server: LocalServer) -> set[str]:
    """What an account was denied."""
    with server.client() as client:
        log = [dict(zip(e[::2], e[1::2])) for e in client.execute_command("ACL", "LOG", 128)]
    return {e[b"object"].decode() for e in log if e[b"username"] == b"bisync"} - EXPECTED_DENIALS


class Guarded(World):
    """Two sites at which bisync has an account with the least rights."""

    def __init__(self, folder: pathlib.Path, *, topology: str, roles: dict[str, str], release: str = "") -> None:
        """`release`: of the servers, one that has vector sets; else they are those that are found, without these."""
        super().__init__(folder, topology=topology)
        self._roles, self._more = roles, MORE if release else dict.fromkeys(MORE, [])
        if release:
            self.east, self.west = (LocalServer(folder / name, program=program(release)) for name in ("east", "west"))
            self.servers = {"east": self.east, "west": self.west}

    def write_job_file(self) -> None:
        text = f'name = "orders"\ntopology = "{self._topology}"\n'
        (self.folder / "password").write_text(f"{PASSWORD}\n")
        (self.folder / "password").chmod(0o600)
        for name, server in self.servers.items():
            give(server, ROLES[self._roles[name]] + self._more[self._roles[name]])
            url = server.url.replace("//", "//bisync@")
            text += f'[sites.{name}]\nurl = "{url}"\npassword_file = "password"\n'
        self.job_file.write_text(text)

    def assert_nothing_denied(self) -> None:
        assert {name: denials(server) for name, server in self.servers.items()} == {"east": set(), "west": set()}


LIBRARY = "#!lua name={name}\nredis.register_function('{name}', function() return '{value}' end)"
SAMPLES = [
    *("SET s 1", "HSET h f 1", "RPUSH l 1", "SADD m 1", "ZADD z 1 a", "XADD x * f 1", "PFADD p a", "GEOADD g 13 38 a"),
    *("SETEX e 1000 1", "XGROUP CREATE x g 0", "BITFIELD b SET u8 0 1", "SELECT 3", "SET in:three 1", "SELECT 0"),
    *("COPY s s2", "RENAME s2 s3", "LMOVE l l2 LEFT RIGHT", "PEXPIRE h 100000", "PUBLISH c m", "SPUBLISH c m"),
    *("MULTI", "INCR n", "INCR n", "EXEC", "EVAL redis.call('incr',KEYS[1]) 1 n", "SORT l STORE l3", "GETDEL s3"),
]


VECTORS = [
    *("VADD v VALUES 2 1 0 near SETATTR {}", "VADD v VALUES 2 0 1 far", "VSETATTR v far 1", "VADD v VALUES 2 1 1 out"),
    *("VREM v out", "VADD w VALUES 3 1 2 3 a"),
]


def write(server: LocalServer, commands: list[str]) -> None:
    with server.client(single_connection_client=True) as client:
        for command in commands:
            client.execute_command(*command.split())


@pytest.mark.parametrize("release", ["", NEW])
def test_a_two_way_job_with_all_that_may_happen(tmp_path: pathlib.Path, release: str) -> None:
    roles = {"east": TWO_WAY, "west": TWO_WAY}
    with Guarded(tmp_path, topology="bidirectional", roles=roles, release=release) as world:
        write(world.east, SAMPLES + VECTORS * bool(release))
        assert [c for c in precheck(world.job) if c.result != "ok"] == []
        engine = world.synchronised_engine()
        world.start_writers(3)
        wait_until(lambda: all(w.rounds > 5 for w in world.writers), "the writers have written")
        world.stop_writers()
        world.wait_drained(engine)
        engine.stop()
        # at both sites while no engine reads: conflicts of every kind
        for name, server in world.servers.items():
            lists = [f"RPUSH l {name}", f"LPUSH l {name}", f"XADD x * f {name}", f"SET s {name}", f"HSET h f {name}"]
            more = [f"SADD m {name}", f"ZADD z {len(name)} a", f"ZINCRBY z {len(name)} b", f"APPEND s {name}"]
            write(server, [*lists, *more, f"PEXPIRE e {2_000_000 + ord(name[0])}", "LPOP l3"])
            if release:
                write(server, [f"VADD v VALUES 2 0.5 {len(name)} {name[0]}", f"VSETATTR v far {ord(name[0])}"])
            with server.client() as client:
                client.execute_command("FUNCTION", "LOAD", LIBRARY.format(name="both", value=name))
                client.set("doomed", name) if name == "east" else client.rpush("doomed", name)
        write(world.west, SAMPLES[:9])
        engine = world.synchronised_engine()
        world.wait_drained(engine)
        world.assert_equal()
        records = bisync_json("conflicts", world.job_file)
        assert len(records) >= 5, records
        undone = 0
        for record in records:
            undone += bisync("conflicts", world.job_file, "--undo", record["id"], "--force").returncode == 0
        assert undone, "at least one value was put back"
        write(world.east, ["SELECT 3", "FLUSHDB"])
        world.wait_drained(engine)
        world.assert_equal()
        done = bisync("verify", world.job_file)
        assert done.returncode == 0, done
        engine.stop()
        done = bisync("reset", world.job_file, "--yes")
        assert done.returncode == 0, done
        world.assert_nothing_denied()


@pytest.mark.parametrize("release", ["", NEW])
def test_a_one_way_job(tmp_path: pathlib.Path, release: str) -> None:
    with Guarded(tmp_path, topology="one-way", roles={"east": SOURCE, "west": TARGET}, release=release) as world:
        write(world.east, SAMPLES + VECTORS * bool(release))
        assert [c for c in precheck(world.job) if c.result != "ok"] == []
        engine = world.synchronised_engine()
        world.start_writers(3, "east")
        wait_until(lambda: all(w.rounds > 5 for w in world.writers), "the writer has written")
        world.stop_writers()
        write(world.east, [*SAMPLES[:9], "SWAPDB 7 8", "FUNCTION FLUSH", *VECTORS[:4] * bool(release)])
        with world.east.client() as client:
            client.execute_command("FUNCTION", "LOAD", LIBRARY.format(name="one", value="1"))
            wait_until(lambda: client.exists("bisync:orders:beat"), "the heartbeat is written")
        world.wait_drained(engine)
        world.assert_equal()
        engine.stop()
        assert bisync("reset", world.job_file, "--yes").returncode == 0
        with world.east.client() as client:
            assert client.keys("bisync:*") == []
        world.assert_nothing_denied()


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[LocalServer]]:
    with local_servers(tmp_path_factory.mktemp("acl"), "east", "west") as both:
        yield both


@contextlib.contextmanager
def job(folder: pathlib.Path, pair: list[LocalServer], role: str) -> Iterator[tuple[pathlib.Path, LocalServer]]:
    """A job in which one site has this role, and that site."""
    topology = "bidirectional" if role == TWO_WAY else "one-way"
    at = 0 if role == SOURCE else 1
    urls = [server.url for server in pair]
    urls[at] = urls[at].replace("//", f"//bisync:{PASSWORD}@")
    file = folder / "orders.toml"
    sites = "".join(f'[sites.{name}]\nurl = "{url}"\n' for name, url in zip(("east", "west"), urls))
    file.write_text(f'name = "orders"\ntopology = "{topology}"\n{sites}')
    file.chmod(0o600)
    yield file, pair[at]


def unwell(file: pathlib.Path) -> list[Check]:
    return [c for c in precheck(load_job(file)) if c.result != "ok"]


CASES = [(role, word) for role, words in ROLES.items() for word in words if word[0] in "+~&%"]
WORDS = {"%R~*": "~*"}  # what is named where this is missing: with it all is well too


@pytest.mark.parametrize(("role", "missing"), CASES, ids=[f"{r.split()[-2]}-{r.split()[1]}-{w}" for r, w in CASES])
def test_a_missing_right_is_noticed_named_and_mended(
    tmp_path: pathlib.Path, pair: list[LocalServer], monkeypatch: pytest.MonkeyPatch, role: str, missing: str
) -> None:
    monkeypatch.setattr("bisync.runtime.survey.RATE_SAMPLE_S", 0.01)
    with job(tmp_path, pair, role) as (file, server):
        without(file, server, ROLES[role], missing)


def without(file: pathlib.Path, server: LocalServer, words: list[str], missing: str) -> None:
    """Take one right away, see that the precheck names it, and do what it says."""
    give(server, [word for word in words if word != missing])
    found = unwell(file)
    assert found, f"precheck did not notice that {missing} is missing"
    remedies = [rule for c in found for rule in re.findall(r"ACL SETUSER (bisync (?:[^;()]|\([^()]*\))+)", c.remedy)]
    named = {word.strip("()") for remedy in remedies for word in remedy.split()[1:]}
    assert WORDS.get(missing, missing) in named, found
    with server.client() as client:
        for remedy in remedies:
            client.execute_command("ACL", "SETUSER", *remedy.split())
    assert unwell(file) == [], "what it says mends it"


@pytest.fixture(scope="module")
def new_pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[LocalServer]]:
    folder, path = tmp_path_factory.mktemp("acl"), program(NEW)
    both = [LocalServer(folder / name, program=path) for name in ("east", "west")]
    try:
        yield [server.start() for server in both]
    finally:
        for server in both:
            server.stop(signal.SIGKILL)


NEW_CASES = [(role, word) for role, words in MORE.items() for word in (*words, "+@read", "+@write") if word[0] in "+~"]
NEW_CASES.remove((SOURCE, "+@write"))
NEW_IDS = [f"{role.split()[-2]}-{role.split()[1]}-{word}" for role, word in NEW_CASES]


@pytest.mark.parametrize(("role", "missing"), NEW_CASES, ids=NEW_IDS)
def test_and_so_where_there_are_vector_sets(
    tmp_path: pathlib.Path, new_pair: list[LocalServer], monkeypatch: pytest.MonkeyPatch, role: str, missing: str
) -> None:
    monkeypatch.setattr("bisync.runtime.survey.RATE_SAMPLE_S", 0.01)
    with job(tmp_path, new_pair, role) as (file, server):
        without(file, server, ROLES[role] + MORE[role], missing)


def test_a_category_is_not_said_to_give_the_rights_on_vector_sets(
    tmp_path: pathlib.Path, new_pair: list[LocalServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where they are missing too, one line mends both."""
    monkeypatch.setattr("bisync.runtime.survey.RATE_SAMPLE_S", 0.01)
    for role, missing in ((TARGET, "+@write"), (SOURCE, "+@read")):
        with job(tmp_path, new_pair, role) as (file, server):
            without(file, server, ROLES[role], missing)


def test_every_right_of_the_lines_is_explained(tmp_path: pathlib.Path) -> None:
    table = MANUAL.read_text().split("### What for")[1].split("###")[0].replace("\\|", "|")
    for role, words in ROLES.items():
        for word in (*words[3:], *(word for word in MORE[role] if word[0] in "+~")):
            assert re.search(rf"[` ]{re.escape(word)}[` ]", table), (role, word)


def test_a_server_that_has_no_accounts_needs_the_password_alone(tmp_path: pathlib.Path) -> None:
    with local_servers(tmp_path, "east", "west", options=("--requirepass", PASSWORD)) as both:
        for server in both:
            with server.client(password=PASSWORD) as client:
                client.config_set("maxmemory-policy", "noeviction")
        (tmp_path / "password").write_text(PASSWORD)
        (tmp_path / "password").chmod(0o640)
        file = tmp_path / "orders.toml"
        sites = zip(("east", "west"), (server.url for server in both))
        text = "".join(f'[sites.{name}]\nurl = "{url}"\npassword_file = "password"\n' for name, url in sites)
        file.write_text(f'name = "orders"\ntopology = "bidirectional"\n{text}')
        assert unwell(file) == []

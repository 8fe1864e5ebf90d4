"""What the tests on whole systems share: two servers, a job file, engines as processes, clients, a comparison.

Whatever happens, every process is stopped by its id at the end; where a test fails, the ends of all logs are shown.
"""

import contextlib
import json
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Self

import redis

from bisync.cli.wait import wait_drained, wait_for_state
from bisync.config import Job, load_job
from bisync.core.states import SYNCHRONIZING
from bisync.core.tag import Tag
from bisync.status import read_status
from bisync.testing.servers import LocalServer, free_port
from bisync.verify import verify
from tests.system.load import Writer

WAIT_S = 40.0  # for whatever should come at once: a busy machine is no reason to fail
LOG_SHOWN = 2_500  # characters at the end of each log
LOOK_S = 0.003  # between two looks at a condition
FORWARD, REVERSE = "forward", "reverse"
TAGS = {FORWARD: "west", REVERSE: "east"}  # by channel: the site that holds its tag

# The fields of a hash that have an expiry, and the moments. Servers before 7.4 know of none.
FIELD_EXPIRIES = """
local found = {}
for _, field in ipairs(redis.call('HKEYS', KEYS[1])) do
  local at_ms = redis.pcall('HPEXPIRETIME', KEYS[1], 'FIELDS', 1, field)
  if at_ms.err then break end
  if at_ms[1] >= 0 then found[#found + 1] = {field, at_ms[1]} end
end
return found
"""

# The elements of a vector set with their vectors and attributes. Its graph is by chance, and DUMP shows it.
VECTORS = """
local found = redis.call('VRANDMEMBER', KEYS[1], redis.call('VCARD', KEYS[1]))
table.sort(found)
for n, e in ipairs(found) do found[n] = {e, redis.call('VEMB', KEYS[1], e), redis.call('VGETATTR', KEYS[1], e)} end
return found
"""

Held = dict[tuple[int, bytes], tuple[str, Any, int]]


def wait_until(condition: Callable[[], object], what: str, timeout_s: float = WAIT_S) -> None:
    """Wait for a condition. Raises AssertionError that says `what` did not come about."""
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, f"not within {timeout_s:g} s: {what}"
        time.sleep(LOOK_S)


class EngineProcess:
    """`bisync run` as a process, its log in a file."""

    def __init__(self, job_file: pathlib.Path, log: pathlib.Path) -> None:
        self.log = log
        with open(log, "wb") as out:
            words = [sys.executable, "-m", "bisync", "run", str(job_file)]
            self.process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
        self.began_s = time.monotonic()

    @property
    def seconds(self) -> float:
        """Since its start."""
        return time.monotonic() - self.began_s

    def __repr__(self) -> str:
        return f"<EngineProcess {self.process.pid} {self.process.poll()}>"

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    @property
    def text(self) -> str:
        """Its log so far."""
        return self.log.read_text(errors="replace")

    def check(self) -> bool:
        """It runs; else AssertionError."""
        assert self.running, f"the engine ended by itself with {self.process.returncode}: {self.text[-LOG_SHOWN:]}"
        return True

    def send(self, how: signal.Signals) -> None:
        self.process.send_signal(how)

    def kill(self) -> None:
        """End it as a crash does."""
        if self.running:
            self.process.kill()
        self.process.wait(WAIT_S)

    def ends(self, timeout_s: float = WAIT_S) -> int:
        """Wait for its end. Its exit status."""
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the engine has not ended after {timeout_s:g} s: {self.text[-LOG_SHOWN:]}") from None

    def stop(self) -> None:
        """End it properly."""
        self.check()
        self.process.terminate()
        assert self.ends() == 0, self.text[-LOG_SHOWN:]


class World:
    """Two sites, east and west, and one job. Use it as a context."""

    def __init__(
        self,
        folder: pathlib.Path,
        *,
        topology: str = "bidirectional",
        tables: str = "",
        user: str = "",
        options: tuple[str, ...] = (),
    ) -> None:
        """`tables` is added to the job file, `user` (name:password) to east's url; `options` are the servers'."""
        self.folder = folder
        self.east, self.west = (LocalServer(folder / name, *options) for name in ("east", "west"))
        self.servers = {"east": self.east, "west": self.west}
        self.job_file = folder / "orders.toml"
        self._topology, self._tables, self._user = topology, tables, user
        self.engines: list[EngineProcess] = []
        self.writers: list[Writer] = []

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            stack.callback(self._stop_all)
            for server in self.servers.values():
                server.start()
            self.write_job_file()
            stack.pop_all()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._stop_all()
        if kind is not None:
            for path in sorted([*self.folder.glob("*.log"), *self.folder.glob("*/server.log")], key=str)[-14:]:
                print(f"--- {path.relative_to(self.folder)}\n{path.read_text(errors='replace')[-LOG_SHOWN:]}")

    def _stop_all(self) -> None:
        for writer in self.writers:
            writer.end()
        for engine in self.engines:
            engine.kill()
        for server in self.servers.values():
            server.stop(signal.SIGKILL)

    def write_job_file(self) -> None:
        """The job file, also after a server got another port."""
        east = self.east.url.replace("//", f"//{self._user}@") if self._user else self.east.url
        sites = f'[sites.east]\nurl = "{east}"\n[sites.west]\nurl = "{self.west.url}"\n'
        self.job_file.write_text(f'name = "orders"\ntopology = "{self._topology}"\n{sites}{self._tables}')
        self.job_file.chmod(0o600)

    @property
    def job(self) -> Job:
        return load_job(self.job_file)

    # -- the engine
    def start_engine(self) -> EngineProcess:
        """Start one; does not wait for anything."""
        engine = EngineProcess(self.job_file, self.folder / f"engine-{len(self.engines):03}.log")
        self.engines.append(engine)
        return engine

    def synchronised_engine(self) -> EngineProcess:
        """Start one and wait until it synchronises."""
        engine = self.start_engine()
        self.wait_synchronizing(engine)
        return engine

    def wait_synchronizing(self, engine: EngineProcess) -> None:
        """Wait until this very engine, and no earlier one, says that it synchronises."""
        wait_until(lambda: engine.check() and self.status()["engine"]["pid"] == engine.process.pid, f"{engine} reports")
        outcome = wait_for_state(self.job, SYNCHRONIZING, WAIT_S, engine.check)
        assert outcome.reached, outcome.missing

    def wait_drained(self, engine: EngineProcess, timeout_s: float = WAIT_S) -> None:
        """Wait until all that was written is applied."""
        outcome = wait_drained(self.job, timeout_s, engine.check)
        assert outcome.reached, outcome.missing

    def status(self) -> dict[str, Any]:
        return read_status(self.job, int(time.time() * 1000))

    def tag(self, channel: str = FORWARD) -> Tag | None:
        """The tag of a channel, at the site that holds it; None: there is none, or the site is away."""
        try:
            with self.servers[TAGS[channel]].client() as client:
                value = client.get(f"bisync:orders:tag:{channel}")
        except (redis.ConnectionError, redis.TimeoutError):
            return None
        return None if value is None else Tag.decode(value)

    # -- clients
    def start_writers(self, seed: int, *sites: str, **options: Any) -> list[Writer]:
        """A writer at each site (both, where none is named)."""
        started = [Writer(site, self.servers[site], seed, **options) for site in sites or self.servers]
        self.writers += started
        for writer in started:
            writer.start()
        return started

    def stop_writers(self) -> None:
        """Stop them. Raises AssertionError where one has failed."""
        for writer in self.writers:
            writer.halt()

    def assert_written(self, *sites: str) -> None:
        """What every writer wrote is there, exactly, at each site (both, where none is named)."""
        for writer in self.writers:
            assert writer.rounds > 0
            for site in sites or self.servers:
                with self.servers[site].client() as client:
                    assert writer.wrong(client) == [], f"of the writer at {writer.site}, found at {site}"

    # -- comparing
    def assert_equal(self, *, all_keys: bool = True) -> None:
        """Both sites hold the same keys, types, values and expiries, and so says `verify`."""
        if all_keys:
            assert_same(held(self.east), held(self.west))
        verdict = verify(self.job)
        assert verdict.equal, verdict.differences[:5]


def held(server: LocalServer) -> Held:
    """All that a site holds but bisync's own keys. By (database, key): type, value, expiry."""
    found: Held = {}
    with server.client() as client:
        databases = [int(name[2:]) for name in client.info("keyspace")]
    for database in databases:
        with server.client(database) as client:
            keys = sorted(k for k in client.scan_iter(count=5_000) if not k.startswith(b"bisync:"))
            for at in range(0, len(keys), 2_000):
                found.update({(database, k): v for k, v in _read(client, keys[at : at + 2_000])})
    return found


def _read(client: "redis.Redis", keys: list[bytes]) -> Iterator[tuple[bytes, tuple[str, Any, int]]]:
    with client.pipeline(transaction=False) as pipe:
        for key in keys:
            pipe.type(key).execute_command("PEXPIRETIME", key)
        heads = pipe.execute()
        kinds = [kind.decode() for kind in heads[::2]]
        for key, kind in zip(keys, kinds):
            _READS[kind](pipe, key)
        values = iter(pipe.execute())
    for key, kind, expires_at_ms in zip(keys, kinds, heads[1::2]):
        value = next(values)
        if kind == "stream":
            value = (value, stream_state(next(values)))
        if kind == "hash" and (expiries := next(values)):
            value = (value, {field: at_ms for field, at_ms in expiries})
        yield key, (kind, value, expires_at_ms)


_READS: Mapping[str, Callable[[Any, bytes], object]] = {
    "none": lambda pipe, key: pipe.exists(key),
    "string": lambda pipe, key: pipe.get(key),
    "list": lambda pipe, key: pipe.lrange(key, 0, -1),
    "set": lambda pipe, key: pipe.smembers(key),
    "hash": lambda pipe, key: (pipe.hgetall(key), pipe.eval(FIELD_EXPIRIES, 1, key)),
    "zset": lambda pipe, key: pipe.zrange(key, 0, -1, withscores=True),
    "vectorset": lambda pipe, key: pipe.eval(VECTORS, 1, key),
    "stream": lambda pipe, key: (pipe.xrange(key), pipe.execute_command("XINFO", "STREAM", key, "FULL")),
}


def stream_state(info: Sequence[Any]) -> Any:
    """Of XINFO STREAM FULL, what a server's stream carries: not how many entries were read, nor when."""
    stream = _fields(info)
    groups = []
    for group in map(_fields, stream[b"groups"]):
        consumers = sorted(_fields(consumer)[b"name"] for consumer in group[b"consumers"])
        pending = [tuple(entry[:2]) for entry in group[b"pending"]]
        groups.append((group[b"name"], group[b"last-delivered-id"], pending, consumers))
    return stream[b"last-generated-id"], stream[b"max-deleted-entry-id"], groups


def _fields(flat: Sequence[Any]) -> dict[bytes, Any]:
    return dict(zip(flat[::2], flat[1::2], strict=True))


def assert_same(a: Held, b: Held) -> None:
    """The same keys, types, values and expiries."""
    different = [place for place in a.keys() | b.keys() if a.get(place) != b.get(place)]
    shown = [(place, str(a.get(place))[:120], str(b.get(place))[:120]) for place in sorted(different)[:6]]
    assert not different, f"{len(different)} of {len(a.keys() | b.keys())} keys differ: {shown}"


def bisync(*words: object, timeout_s: float = WAIT_S) -> "subprocess.CompletedProcess[str]":
    """The program, run to its end."""
    command = [sys.executable, "-m", "bisync", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, stdin=subprocess.DEVNULL)


def bisync_json(*words: object) -> Any:
    """The document that a command with --json prints; its exit status does not matter."""
    done = bisync(*words, "--json")
    assert done.stdout, done.stderr
    return json.loads(done.stdout)


def new_server(folder: pathlib.Path, *options: str) -> LocalServer:
    """A server that is no site of the job."""
    server = LocalServer(folder, *options)
    server.port = free_port()
    return server.start()

"""Local Redis servers for tests and for the demo: on 127.0.0.1, on a free port, in a folder of their own.

A server is stopped by its process id and never by name, so that nothing else on the machine is touched.
"""

import contextlib
import functools
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator

import redis

from bisync.errors import BisyncError

START_TIMEOUT_S = 20.0  # a server is up after 5 to 50 ms; a machine under load may take seconds


def free_port() -> int:
    """A port on 127.0.0.1 that nothing listens on at this moment."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port: int = s.getsockname()[1]
        return port


def find_program(name: str = "redis-server") -> str:
    """The path of a server program.

    Raises BisyncError, with the way to get one, where the machine has none.
    """
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/bin:/opt/homebrew/bin")
    if found is None:
        raise BisyncError(
            f"no {name} on this machine",
            hint=f"install it (Debian and Ubuntu: apt-get install {name}; macOS: brew install redis) or put it on PATH",
        )
    return found


@functools.cache
def program_version(program: str) -> tuple[int, ...]:
    """What a server program says of itself with --version: (2, 8, 17).

    Raises BisyncError where it does not run, or says something else.
    """
    try:
        told = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=START_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired) as e:
        raise BisyncError(f"{program} does not run", why=str(e)) from e
    found = re.search(r"\bv=([0-9.]+)", told.stdout)
    if found is None:
        raise BisyncError(f"{program} does not tell its version", why=(told.stdout + told.stderr)[:200])
    return tuple(int(n) for n in found[1].split("."))


def kept_servers(folder: pathlib.Path) -> dict[str, str]:
    """The server programs that lie in `<folder>/<name>-<version>/<name>-server`, by "<name>-<version>", oldest first.

    Redis comes before others. `deploy/get-servers` puts them there.
    """

    def age(path: pathlib.Path) -> tuple[bool, str, list[int]]:
        name, _, version = path.parent.name.partition("-")
        return name != "redis", name, [int(n) for n in version.split(".")]

    programs = [p for p in folder.glob("*/*-server") if re.fullmatch(r"[a-z]+-[0-9.]*[0-9]", p.parent.name)]
    return {p.parent.name: str(p) for p in sorted(programs, key=age)}


class LocalServer:
    """One redis-server process. `options` are words for its command line (`"--requirepass", "x"`).

    `program` is the path of the program to start; where none is given, the one that `find_program` finds.

    The data folder outlives `stop`, so that `start` after it is a restart of the same server.
    """

    def __init__(self, folder: pathlib.Path, *options: str, program: str | None = None) -> None:
        self.program, self.folder, self.options = program or find_program(), folder, options
        self.port = free_port()
        self._has_run = False
        self.process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)

    def __repr__(self) -> str:
        state = "stopped" if self.process is None or self.process.poll() is not None else f"pid {self.process.pid}"
        return f"<LocalServer 127.0.0.1:{self.port} {state}>"

    @property
    def url(self) -> str:
        """How a job file names this server."""
        return f"redis://127.0.0.1:{self.port}"

    def start(self) -> "LocalServer":
        """Start it and wait until it answers. Raises BisyncError with the end of its log where it does not."""
        # The oldest have no diskless transfer, and do not start with an option that they do not know.
        at_once = () if program_version(self.program) < (2, 8, 18) else ("--repl-diskless-sync-delay", "0")
        with open(self.folder / "server.log", "ab") as log:
            self.process = subprocess.Popen(
                [
                    *(self.program, "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder)),
                    *("--save", "", "--appendonly", "no", "--daemonize", "no", "--repl-backlog-size", "64mb"),
                    *(*at_once, *self.options),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline and self.process.poll() is None:
            if self.answers():
                self._has_run = True
                return self
            time.sleep(0.01)
        end = (self.folder / "server.log").read_text(errors="replace")[-400:]
        self.stop(signal.SIGKILL)
        if "Address already in use" in end and not self._has_run:
            self.port = free_port()  # another program was quicker to take it
            return self.start()
        raise BisyncError(f"{self.program} did not start on port {self.port}", why=end)

    def answers(self) -> bool:
        """Does it answer PING? (An error reply such as NOAUTH or LOADING counts as an answer.)"""
        with contextlib.suppress(redis.ConnectionError, redis.TimeoutError), self.client(socket_timeout=5) as c:
            try:
                c.ping()
            except redis.exceptions.BusyLoadingError:
                return False
            except redis.RedisError as e:
                return not isinstance(e, redis.ConnectionError) or isinstance(e, redis.AuthenticationError)
            return True
        return False

    def client(self, db: int = 0, **options: object) -> "redis.Redis":
        """A redis-py client for database `db`."""
        chosen = {"host": "127.0.0.1", "port": self.port, "db": db, "socket_timeout": 30, "protocol": 2, **options}
        return redis.Redis(**chosen)  # type: ignore[arg-type]

    @property
    def replication_offset(self) -> int:
        """The end of its replication stream, in bytes."""
        offset: int = self.client().info("replication")["master_repl_offset"]
        return offset

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        """Send the signal to the process and wait for its end."""
        if self.process is not None and self.process.poll() is None:
            if how != signal.SIGKILL:
                self.process.send_signal(signal.SIGCONT)
            self.process.send_signal(how)
            self.process.wait(30)

    def pause(self) -> None:
        """Freeze it (SIGSTOP), as a stalled machine would be."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let a frozen server go on (SIGCONT)."""
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)


@contextlib.contextmanager
def local_servers(folder: pathlib.Path, *names: str, options: tuple[str, ...] = ()) -> Iterator[list[LocalServer]]:
    """Servers for the block, one for each name, stopped at its end whatever happens."""
    servers = [LocalServer(folder / name, *options) for name in names]
    try:
        yield [s.start() for s in servers]
    finally:
        for s in servers:
            s.stop(signal.SIGKILL)

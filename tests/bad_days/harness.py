"""What the tests of bad days share: two servers with a password, an engine, impostors, and what must hold on every day.

On every day: an error is one clear text with a next step and no traceback, and the password stands in no output, no
file of bisync and not in what the system tells of its processes. `BadDay` looks for it at the end of each test.
"""

import contextlib
import io
import os
import pathlib
import re
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from typing import Any, Self

import pytest
import redis

from bisync.cli import main
from bisync.testing.servers import LocalServer
from tests.system.world import EngineProcess, World, wait_until

SECRET = "zq9-open-sesame"
NEW_SECRET = "zq9-new-sesame"
QUICK = "[engine]\nretry_pause_ms_max = 200\n"
SEEN_FILES_MAX = 64 << 20  # bytes of a file in which the password is looked for


class LockedServer(LocalServer):
    """A server that asks for the password."""

    def __init__(self, folder: pathlib.Path, *options: str) -> None:
        super().__init__(folder, *("--requirepass", SECRET, "--enable-debug-command", "yes"), *options)
        self.password = SECRET

    def client(self, db: int = 0, **options: object) -> "redis.Redis":
        return super().client(db, **{"password": self.password, **options})

    @property
    def account_url(self) -> str:
        return self.url.replace("//", f"//:{SECRET}@")

    def do(self, *words: Any, db: int = 0) -> Any:
        """One command."""
        with self.client(db) as client:
            return client.execute_command(*words)


class BadDay(World):
    """A world whose sites have a password. At its end the password must be nowhere."""

    def __init__(
        self,
        folder: pathlib.Path,
        *,
        topology: str = "bidirectional",
        tables: str = QUICK,
        store: str = "",
        east: tuple[str, ...] = (),
        west: tuple[str, ...] = (),
    ) -> None:
        """`east` and `west` are options of the servers; `tables` and `store` stand in the job file."""
        super().__init__(folder, topology=topology, tables=tables)
        self.east, self.west = LockedServer(folder / "east", *east), LockedServer(folder / "west", *west)
        self.servers = {"east": self.east, "west": self.west}
        self.store = store
        self.urls = {name: server.account_url for name, server in self.servers.items()}
        self.outputs: list[str] = []
        self.wanted: dict[str, set[str]] = {"east": set(), "west": set()}

    def write_job_file(self) -> None:
        """The job file as the fields say now."""
        store = f'store = "{self.store}"\n' if self.store else ""
        sites = "".join(f'[sites.{name}]\nurl = "{url}"\n' for name, url in self.urls.items())
        self.job_file.write_text(f'name = "orders"\ntopology = "{self._topology}"\n{store}{sites}{self._tables}')
        self.job_file.chmod(0o600)

    def __exit__(self, kind: object, *rest: object) -> None:
        super().__exit__(kind, *rest)
        if kind is None:
            self.assert_secret_kept()

    def rewrite(self, **fields: str) -> None:
        """Change the job file: `topology`, `tables`, `store`."""
        self._topology, self._tables = fields.get("topology", self._topology), fields.get("tables", self._tables)
        self.store = fields.get("store", self.store)
        self.write_job_file()

    # -- the program
    def start_engine(self) -> EngineProcess:
        engine = super().start_engine()
        assert_not_told_by_the_system(engine.process.pid)
        return engine

    def bisync(self, *words: str, status: int) -> str:
        """Run a command on the job to its end. What it wrote."""
        out, error, found = within(*words, self.job_file)
        self.outputs.append(out + error)
        assert found == status, (found, out, error)
        assert "Traceback" not in error
        return out + error

    def refused(self, *words: str, status: int = 1, process: bool = False) -> str:
        """`bisync run` must end by itself with one clear error that has these words in it. What it wrote.

        `process`: as a process of its own, where it matters later that it has ended.
        """
        if process:
            return self.ended(self.start_engine(), *words, status=status)
        text = self.bisync("run", status=status)
        assert_one_clear_error(text, *words)
        return text

    def ended(self, engine: EngineProcess, *words: str, status: int = 1) -> str:
        """The engine must end by itself with one clear error."""
        assert engine.ends() == status, engine.text
        assert_one_clear_error(engine.text, *words)
        return engine.text  # a file, which is looked through at the end

    def logs(self, engine: EngineProcess, text: str) -> None:
        """Wait until the engine, which goes on, has said so."""
        wait_until(lambda: engine.check() and text in engine.text, f"the engine says {text!r}: {engine.text}")

    def in_state(self, engine: EngineProcess, state: str, reason: str = "") -> None:
        """Wait until `status` shows the state, with a reason."""

        def so() -> bool:
            engine.check()
            document = self.status()
            return document["state"] == state and reason in document["reason"]

        wait_until(so, f"the state {state} ({reason}); it is {self.status()['state']}: {self.status()['reason']}")

    def finish(self, engine: EngineProcess) -> None:
        """All is well again: what was written is applied, the sites are equal, nothing is lost, and it stops."""
        self.wait_drained(engine)
        self.assert_all_there()
        self.assert_equal()
        engine.stop()
        assert "Traceback" not in engine.text, engine.text

    # -- data
    def write(self, site: str, name: str, n: int = 5) -> None:
        """Client writes at a site that would show a loss and a doubling."""
        with self.servers[site].client() as client:
            for i in range(n):
                client.rpush(f"{site}:{name}", i)
        self.wanted[site].add(f"{site}:{name} {n}")

    def assert_all_there(self) -> None:
        """What `write` wrote is at both sites (of a one-way job: what it wrote at east), exactly."""
        for site in (("east", "west") if self._topology == "bidirectional" else ("east",)):
            for words in self.wanted[site]:
                key, n = words.split()
                for name, server in self.servers.items():
                    with server.client() as client:
                        assert client.lrange(key, 0, -1) == [b"%d" % i for i in range(int(n))], f"{key} at {name}"

    def reaches(self, site: str, key: str, db: int = 0) -> None:
        """Wait until a key is at a site."""
        with self.servers[site].client(db) as client:
            wait_until(lambda: client.exists(key), f"{key} is at {site}")

    # -- the password
    def assert_secret_kept(self) -> None:
        """The password is in nothing that the program wrote."""
        for name, text in enumerate(self.outputs):
            assert "zq9-" not in text, f"output {name} shows the password: {text}"
        for path in self.folder.rglob("*"):
            if path == self.job_file or any(path.is_relative_to(s.folder) for s in self.servers.values()):
                continue
            with contextlib.suppress(OSError):
                if path.is_file() and path.stat().st_size < SEEN_FILES_MAX:
                    assert b"zq9-" not in path.read_bytes(), f"{path} shows the password"


@contextlib.contextmanager
def running(folder: pathlib.Path, **options: Any) -> Iterator[tuple[BadDay, EngineProcess]]:
    """A job that synchronises, with some data."""
    with BadDay(folder, **options) as day:
        day.write("east", "before")
        engine = day.synchronised_engine()
        yield day, engine


def within(*words: object) -> tuple[str, str, int]:
    """A command to its end, within this process because that is four times as fast. Output, errors, exit status."""
    out, error = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error), pytest.raises(SystemExit) as end:
        main([str(word) for word in words])
    return out.getvalue(), error.getvalue(), int(end.value.code or 0)  # type: ignore[arg-type]


def assert_not_told_by_the_system(pid: int) -> None:
    """The password is in no process list."""
    for name in ("cmdline", "environ"):
        with contextlib.suppress(OSError):
            assert b"zq9-" not in pathlib.Path(f"/proc/{pid}/{name}").read_bytes(), name


def assert_one_clear_error(text: str, *words: str) -> None:
    """One text begins with "bisync:", has the words in it and a next step, and there is no traceback."""
    assert "Traceback" not in text and "this is a bug" not in text, text
    said = [m.start() for m in re.finditer("^bisync: ", text, re.M)]
    assert len(said) == 1, text
    error = text[said[0] :]
    assert "Next: " in error, error
    for word in words:
        assert word in error, f"{word!r} is not in: {error}"


def is_root() -> bool:
    return os.geteuid() == 0


# -- places that are no Redis


@contextlib.contextmanager
def listener(serve: Callable[[socket.socket], None]) -> Iterator[int]:
    """A port at which each connection is served by a function in a thread."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        held: list[socket.socket] = []

        def accept() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                held.append(connection)
                threading.Thread(target=_quietly, args=(serve, connection), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        try:
            yield server.getsockname()[1]
        finally:
            with contextlib.suppress(OSError):
                server.shutdown(socket.SHUT_RDWR)
            for connection in held:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
                connection.close()


def _quietly(serve: Callable[[socket.socket], None], connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        serve(connection)


def http(connection: socket.socket) -> None:
    """A small web server."""
    connection.recv(1 << 16)
    connection.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
    connection.close()


def silent(connection: socket.socket) -> None:
    """Takes everything and says nothing."""
    while connection.recv(1 << 16):
        pass


class Meddler:
    """A proxy before a server that may change what the server sends on the connection of a replica."""

    def __init__(self, server: LocalServer, change: Callable[[bytes], bytes]) -> None:
        """`change` gets the server's bytes after PSYNC was asked for, and returns what is sent instead."""
        self._server, self.change = server, change
        self.impostor = b""  # what is answered to everything, if anything

    def __enter__(self) -> Self:
        self._listener = listener(self._serve)
        self.port = self._listener.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._listener.__exit__(None, None, None)

    def _serve(self, client: socket.socket) -> None:
        if self.impostor:
            client.sendall(self.impostor)
            return
        with socket.create_connection(("127.0.0.1", self._server.port)) as server:
            replica = threading.Event()

            def forth() -> None:
                while data := client.recv(1 << 16):
                    if b"PSYNC" in data and b"FAILOVER" not in data:
                        replica.set()
                    server.sendall(data)
                server.shutdown(socket.SHUT_RDWR)

            threading.Thread(target=_quietly, args=(lambda _: forth(), client), daemon=True).start()
            while data := server.recv(1 << 16):
                client.sendall(self.change(data) if replica.is_set() else data)
        client.shutdown(socket.SHUT_RDWR)


# -- disks


class SmallDisk:
    """A file system of 1 MiB that can be filled."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder

    def __enter__(self) -> Self:
        self.folder.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(self.folder)], check=True)
        return self

    def __exit__(self, *error: object) -> None:
        subprocess.run(["umount", "-l", str(self.folder)], check=True)

    def fill(self) -> None:
        """Leave no byte."""
        with open(self.folder / "ballast", "ab", buffering=0) as file, contextlib.suppress(OSError):
            while file.write(b"x" * 4096):
                pass

    def make_room(self) -> None:
        (self.folder / "ballast").unlink()

    def grow(self) -> None:
        """Make it a disk of 64 MiB."""
        subprocess.run(["mount", "-o", "remount,size=64m", str(self.folder)], check=True)

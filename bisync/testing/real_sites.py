"""Real servers as the sites of a history, and the clients that write to them."""

import random
import threading
import time
from collections.abc import Iterable, Sequence
from typing import Any, Self, TextIO

import redis

from bisync.endpoint import Endpoint, read_url, shown_url
from bisync.errors import BisyncError
from bisync.testing.families import script
from bisync.testing.servers import LocalServer
from bisync.testing.strategies import Command
from bisync.testing.workloads import Sent, Step, Workload

NAMES = ("east", "west")
"""How the sites of a history are called; the first one is the source of the full copy."""

CLIENT_NAME = "bisync-testing"
"""What our connections are called at a server, to tell them from those of an engine on this machine."""

AWAY = (redis.ConnectionError, redis.TimeoutError, redis.exceptions.BusyLoadingError)
PACES_S = ((0.0,), (0.0, 0.002), (0.0, 0.002), (0.0, 0.0, 0.03), (0.0, 0.01), (0.005, 0.02))
"""Pauses between two steps of a client, one row of them for each client: one in six writes as fast as it can."""


class RealSite:
    """One server, and how to reach it."""

    def __init__(self, name: str, url: str, server: LocalServer | None = None) -> None:
        """`server` is its process, where it is ours. Raises BisyncError where the url is none."""
        self.name, self.url, self.server = name, url, server
        try:
            self._endpoint: Endpoint = read_url(url)
        except ValueError as e:
            raise BisyncError(f"{shown_url(url)}: {e}") from None
        if self._endpoint.tls is not None:
            hint = "name a port of the server without TLS"
            raise BisyncError(f"{shown_url(url)}: the test kit does not talk TLS", hint=hint)

    def __repr__(self) -> str:
        return f"<RealSite {self.name} {self.shown}>"

    @classmethod
    def of(cls, name: str, where: str | LocalServer) -> Self:
        """The site at a URL, or of a local server."""
        return cls(name, where) if isinstance(where, str) else cls(name, where.url, where)

    @property
    def shown(self) -> str:
        """The URL without its password."""
        return shown_url(self.url)

    def client(self, db: int = 0, **options: Any) -> "redis.Redis":
        """A redis-py client with a name by which its connections can be told from the engine's."""
        place, password = self._endpoint, self._endpoint.password
        account: dict[str, Any] = {"username": place.user, "password": password.reveal() if password else None}
        account |= {"socket_timeout": 30, "protocol": 2, "client_name": CLIENT_NAME, "retry": None, **options}
        return redis.Redis(host=place.host, port=place.port, db=db, **account)

    def identity(self) -> str:
        """A name that no other server has. Raises BisyncError where the site cannot be used."""
        try:
            with self.client() as client:
                info: dict[str, Any] = client.info()
        except redis.RedisError as e:
            hint = "does the server run, and does the URL have the right password?"
            raise BisyncError(f"{self.shown} cannot be asked", why=str(e), hint=hint) from None
        if info["role"] != "master":
            raise BisyncError(f"{self.shown} is a replica", hint="name its master")
        return str(info["run_id"])

    def databases(self) -> list[int]:
        """The databases that hold keys."""
        with self.client() as client:
            return [int(name[2:]) for name in client.info("keyspace")]

    def count_keys(self) -> int:
        """How many keys it holds."""
        with self.client() as client:
            return sum(int(held["keys"]) for held in client.info("keyspace").values())

    def count_replicas(self) -> int:
        """How many read its stream."""
        with self.client() as client:
            return int(client.info("replication")["connected_slaves"])

    def wipe(self) -> None:
        """Delete all that it holds."""
        with self.client() as client:
            client.execute_command("CLIENT", "UNPAUSE")
            client.execute_command("FLUSHALL", "SYNC")

    def look_at_all(self) -> None:
        """Look at every key: what has expired then goes, and the server tells its replicas.

        SCAN does so; KEYS passes over expired keys and leaves them.
        """
        for database in self.databases():
            with self.client(database) as client:
                for _ in client.scan_iter(count=1_000):
                    pass

    def send(self, client: "redis.Redis", commands: Sequence[Command], form: str) -> list[Any]:
        """Send commands in one of the FORMS of `bisync.testing.workloads`. The replies, errors among them.

        Raises one of AWAY where no answer came.
        """
        pipe: Any = client.pipeline(transaction=form == "transaction")
        for command in [script(list(commands))] if form == "script" else commands:
            pipe.execute_command(*command)
        try:
            replies: list[Any] = pipe.execute(raise_on_error=False)
        except AWAY:
            raise
        except redis.RedisError as e:  # the server has refused the transaction
            return [e] * len(commands)
        return replies * len(commands) if form == "script" else replies

    # -- faults
    def strike(self, kind: str, lasts_s: float, halted: threading.Event) -> None:
        """Let a fault of the site happen, and return when it is over or `halted` is set."""
        if kind == "cut":
            self.cut()
        elif kind == "pause":
            with self.client() as client:
                client.execute_command("CLIENT", "PAUSE", max(1, int(lasts_s * 1000)), "WRITE")
            halted.wait(lasts_s)
        else:
            self._strike_server(kind, lasts_s, halted)

    def _strike_server(self, kind: str, lasts_s: float, halted: threading.Event) -> None:
        assert self.server is not None and self.server.process is not None
        if kind == "freeze-server":
            self.server.pause()
            halted.wait(lasts_s)
            self.server.resume()
            return
        try:
            with self.client() as client:
                client.execute_command("SHUTDOWN", "SAVE")
        except redis.ConnectionError:
            pass  # that is its answer
        self.server.process.wait(30)
        self.server.start()

    def cut(self) -> int:
        """Close all connections from this machine but our own: the engine's. How many there were."""
        with self.client() as client:
            found = client.client_list()
            ours = client.client_id()
            address = next(c["addr"].rpartition(":")[0] for c in found if int(c["id"]) == ours)
            gone = [c["id"] for c in found if c["name"] != CLIENT_NAME and c["addr"].rpartition(":")[0] == address]
            for number in gone:
                client.execute_command("CLIENT", "KILL", "ID", number)
        return len(gone)


class Writing:
    """What the clients of a history write: it draws from the workload, and keeps a list of all that was sent."""

    def __init__(self, workload: Workload) -> None:
        self.workload = workload
        self.list: list[Sent] = []
        self._began_s = self._until_s = time.monotonic()

    def begin(self, seconds: float) -> None:
        """Clients begin now, and write for so long."""
        self._began_s = time.monotonic()
        self._until_s = self._began_s + seconds

    @property
    def left_s(self) -> float:
        """How long clients go on writing."""
        return max(0.0, self._until_s - time.monotonic())

    def send(self, site: RealSite, client: "redis.Redis", commands: list[Command], form: str) -> None:
        """Send a step and put it down. Raises one of AWAY where no answer came."""
        sent_ms, replies = self._now_ms(), None
        try:
            replies = site.send(client, commands, form)
        finally:
            sent = Sent(site.name, Step(commands, form), sent_ms, self._now_ms(), replies)
            self.list.append(sent)
            self.workload.sent(sent)

    def _now_ms(self) -> float:
        return (time.monotonic() - self._began_s) * 1000

    def count(self, sites: Iterable[str]) -> dict[str, int]:
        """By site: commands that were sent."""
        return {name: sum(len(s.step.commands) for s in self.list if s.site == name) for name in sites}

    def print(self, out: TextIO) -> None:
        """All that was sent, a line for each command, in the order in which it was sent. Times in ms."""
        for s in sorted(self.list, key=lambda s: s.sent_ms):
            replies = s.replies if s.replies is not None else ["no answer"]
            replies = replies if len(replies) == len(s.step.commands) else [replies] * len(s.step.commands)
            for command, reply in zip(s.step.commands, replies):
                words = " ".join(repr(word)[2:-1] or "''" for word in command)
                print(f"{s.sent_ms:10.2f} {s.answered_ms:10.2f} {s.site} {s.step.form:11} {words} -> {reply}", file=out)


class Client(threading.Thread):
    """Writes to one site until its time is over or it is halted. Bears cut connections, and that the server is away."""

    def __init__(self, site: RealSite, writing: Writing, seed: str, halted: threading.Event) -> None:
        super().__init__(name=f"client at {site.name}", daemon=True)
        self.site, self._writing, self._halted = site, writing, halted
        self._draw = random.Random(f"client {seed} {site.name}")
        self.error: BaseException | None = None

    def run(self) -> None:
        """The thread's own; an error stays in `error`."""
        try:
            paces = self._draw.choice(PACES_S)
            while self._goes_on:
                try:
                    self._write(paces)
                except AWAY:
                    self._halted.wait(0.02)
        except BaseException as e:
            self.error = e

    @property
    def _goes_on(self) -> bool:
        return not self._halted.is_set() and self._writing.left_s > 0

    def _write(self, paces: Sequence[float]) -> None:
        with self.site.client() as client:  # which sends nothing twice: it could be accepted twice
            while self._goes_on:
                step = self._writing.workload.step(self._draw, self.site.name)
                self._writing.send(self.site, client, step.commands, step.form)
                pause_s = self._draw.choice(paces)
                if pause_s:
                    self._halted.wait(pause_s)

"""Clients that write to one site, and know exactly what they have written.

Every round adds one to a counter, one number to the end of a list, and one number to the end of a string, on keys that
only this client writes. So afterwards each value says by itself whether a write was lost, doubled or put elsewhere.
"""

import random
import threading
import time
from collections.abc import Sequence

import redis

from bisync.testing.servers import LocalServer

LANES = 4  # sets of keys of each writer
BURST = 6  # rounds that are sent at once
PAUSE_S = 0.02  # between two bursts: some 250 rounds a second
HALT_S = 40.0  # how long a site may be away


class Writer:
    """Writes to one site until it is stopped. Bears that its connection is cut and that the server is away.

    After a cut it asks its own site what became of the burst without an answer: a part from its front was accepted.
    """

    def __init__(
        self,
        site: str,
        server: LocalServer,
        seed: int,
        *,
        prefix: str = "",
        victims: Sequence[str] = (),
        pause_s: float = PAUSE_S,
    ) -> None:
        """`victims` are keys that it deletes, a few with each burst."""
        self._thread = threading.Thread(target=self._run, name=f"writer at {site}", daemon=True)
        self.site, self._server, self._pause_s = site, server, pause_s
        self._prefix = prefix or site
        self._random = random.Random(f"{seed} {site}")
        self.victims = list(victims)
        self.deleted: list[str] = []
        self.done = [0] * LANES  # rounds in each lane that the site has accepted
        self._halted = threading.Event()
        self._error: BaseException | None = None
        self.cuts = 0

    @property
    def rounds(self) -> int:
        return sum(self.done)

    def keys(self, lane: int) -> tuple[str, str, str]:
        """Counter, list and string of a lane."""
        return f"{self._prefix}:count:{lane}", f"{self._prefix}:list:{lane}", f"{self._prefix}:text:{lane}"

    def start(self) -> None:
        self._thread.start()

    def _run(self) -> None:
        try:
            while not self._halted.is_set():
                try:
                    self._write()
                except (redis.ConnectionError, redis.TimeoutError, redis.exceptions.BusyLoadingError):
                    self.cuts += 1
                    self._halted.wait(0.02)
            self._find_out_when_back()
        except BaseException as e:
            self._error = e

    def _write(self) -> None:
        # No retries by the library: what it sends again could be accepted twice.
        with self._server.client(retry=None) as client:
            self._find_out(client)
            while not self._halted.is_set():
                lane = self._random.randrange(LANES)
                self._burst(client, lane, together=self._random.random() < 0.4)
                self._delete(client)
                self._halted.wait(self._pause_s)

    def _burst(self, client: "redis.Redis", lane: int, *, together: bool) -> None:
        """Some rounds; `together`: as one transaction, else one command after the other."""
        counter, numbers, text = self.keys(lane)
        pipe = client.pipeline(transaction=together)
        for n in range(self.done[lane], self.done[lane] + BURST):
            pipe.incr(counter).rpush(numbers, n).append(text, f"{n} ")
        pipe.execute()
        self.done[lane] += BURST

    def _delete(self, client: "redis.Redis") -> None:
        for _ in range(min(5, len(self.victims))):
            key = self.victims.pop()
            self.deleted.append(key)  # also where the answer is lost: then it is deleted again
            client.delete(key)

    def _find_out_when_back(self) -> None:
        deadline_s = time.monotonic() + HALT_S
        while True:
            try:
                with self._server.client(retry=None) as client:
                    return self._find_out(client)
            except (redis.ConnectionError, redis.TimeoutError, redis.exceptions.BusyLoadingError):
                if time.monotonic() > deadline_s:
                    raise
                time.sleep(0.02)

    def _find_out(self, client: "redis.Redis") -> None:
        """Where each lane stands at its own site; finish the round that was cut in the middle."""
        for lane in range(LANES):
            counter, numbers, text = self.keys(lane)
            low, deadline_s = self.done[lane], time.monotonic() + HALT_S
            while True:
                count, length, string = int(client.get(counter) or 0), client.llen(numbers), client.get(text) or b""
                if (count >= low and length >= low and string.startswith(_text(low))) or time.monotonic() > deadline_s:
                    break
                time.sleep(0.01)  # a restore sets a key back for a moment, until the next round of its arbitration
            assert low <= count <= low + BURST, f"{counter} is {count} at its own site, accepted were {low}"
            if length < count:
                client.rpush(numbers, count - 1)
            if string != _text(count):
                assert string == _text(count - 1), f"{text} is damaged at its own site"
                client.append(text, f"{count - 1} ")
            self.done[lane] = count
        for key in self.deleted[-5:]:
            client.delete(key)

    def end(self) -> None:
        """Let it stop, without asking how it went."""
        self._halted.set()
        if self._thread.ident is not None:
            self._thread.join(1)

    def halt(self) -> None:
        """Stop it. Raises AssertionError where it has failed."""
        self._halted.set()
        self._thread.join(HALT_S + 10)
        assert self._error is None, f"the {self._thread.name} failed: {self._error!r}"
        assert not self._thread.is_alive(), f"the {self._thread.name} does not stop"

    def wrong(self, client: "redis.Redis") -> list[str]:
        """What a site does not hold exactly as it was written, in words."""
        found = []
        for lane, rounds in enumerate(self.done):
            counter, numbers, text = self.keys(lane)
            if int(client.get(counter) or 0) != rounds:
                found.append(f"{counter} is {client.get(counter)!r} and should be {rounds}")
            items = client.lrange(numbers, 0, -1)
            if items != [b"%d" % n for n in range(rounds)]:
                found.append(f"{numbers} has {len(items)} items and should have {rounds} ({_first_wrong(items)})")
            if (client.get(text) or b"") != _text(rounds):
                found.append(f"{text} has {client.strlen(text)} bytes and should have {len(_text(rounds))}")
        gone = [key for key in self.deleted if client.exists(key)]
        return found + ([f"{len(gone)} deleted keys are there, such as {gone[0]}"] if gone else [])


def _text(rounds: int) -> bytes:
    return b"".join(b"%d " % n for n in range(rounds))


def _first_wrong(items: Sequence[bytes]) -> str:
    wrong = next((n for n, item in enumerate(items) if item != b"%d" % n), None)
    return "a part of its end is missing" if wrong is None else f"item {wrong} is {items[wrong]!r}"

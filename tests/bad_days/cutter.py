"""A proxy before a site that acts at an exact moment: when bisync sends a certain word to it."""

import contextlib
import socket
import threading
from collections.abc import Callable
from typing import Any, Self

from bisync.testing.servers import LocalServer
from tests.bad_days.harness import SECRET, listener


class Cutter:
    """Passes everything on. Once `watch` was called, what bisync sends is looked through for a word."""

    def __init__(self, server: LocalServer) -> None:
        self._server = server
        self._word = b""
        self._act: Callable[[], bool] = lambda: False
        self._after = True
        self.struck = threading.Event()
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        self._listener = listener(self._serve)
        self.port = self._listener.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._listener.__exit__(None, None, None)

    @property
    def url(self) -> str:
        """For the job file."""
        return f"redis://:{SECRET}@127.0.0.1:{self.port}"

    def watch(self, word: bytes, act: Callable[[], bool], *, after: bool) -> None:
        """Act once when the word is sent: before the server has it, or after it was handed to the server.

        Where `act` returns True the connection is cut, and the server's answer is never seen.
        """
        self._act, self._after, self._word = act, after, word

    def stop_watching(self) -> None:
        """Nothing happens any more."""
        self._word = b""

    def _sees(self, data: bytes) -> bool:
        """The word, for the first time."""
        with self._lock:
            if not self._word or self._word not in data or self.struck.is_set():
                return False
            self._word = b""
            self.struck.set()
            return True

    def _serve(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self._server.port)) as server:
            back = threading.Thread(target=_pass_on, args=(server, client), daemon=True)
            back.start()
            while data := client.recv(1 << 20):
                if not self._sees(data):
                    server.sendall(data)
                    continue
                if self._after:
                    server.sendall(data)
                if self._act():
                    break
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)
            with contextlib.suppress(OSError):
                server.shutdown(socket.SHUT_RDWR)
            back.join(5)
        with contextlib.suppress(OSError):
            client.shutdown(socket.SHUT_RDWR)


def _pass_on(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 20):
            sink.sendall(data)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_RDWR)

"""Reading what a site sends to its replicas, as one of them, to see what was written there and by whom."""

import socket
from collections.abc import Iterator
from typing import Self

import hiredis

from bisync.core.tag import Tag
from bisync.testing.servers import LocalServer

Words = list[bytes]
MARK_CHANNEL = b"tests:mark"  # PUBLISH goes through the stream, and changes no data


class Watch:
    """A replica that keeps every command from its beginning on. Use it as a context."""

    def __init__(self, server: LocalServer) -> None:
        self._server = server
        self.commands: list[Words] = []
        self._marks = 0
        self._reader = hiredis.Reader()

    def __enter__(self) -> Self:
        self._socket = socket.create_connection(("127.0.0.1", self._server.port), timeout=30)
        self._file = self._socket.makefile("rb")
        self._socket.sendall(b"PSYNC ? -1\r\n")
        while not (line := self._file.readline()).startswith(b"$"):
            assert line, "the server refuses the replica"
        self._file.read(int(line[1:]))
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._socket.close()

    def read(self) -> list[Words]:
        """All commands up to now."""
        self._marks += 1
        mark = [b"PUBLISH", MARK_CHANNEL, b"%d" % self._marks]
        with self._server.client() as client:
            client.publish(MARK_CHANNEL, self._marks)
        while True:
            while (command := self._reader.gets()) is not False:
                if command == mark:
                    return self.commands
                self.commands.append(command)
            data = self._file.read1()  # type: ignore[attr-defined]
            assert data, "the server closed the connection"
            self._reader.feed(data)

    def tags(self) -> Iterator[Tag]:
        """The tags that were written, in order."""
        for command in self.read():
            if command[0].upper() == b"SET" and command[1].startswith(b"bisync:orders:tag:"):
                yield Tag.decode(command[2])

    def beat_epochs(self) -> Iterator[int]:
        """The epochs of the heartbeats at the source of a one-way job."""
        for command in self.read():
            if command[0].upper() == b"SET" and command[1] == b"bisync:orders:beat" and b" " in command[2]:
                yield int(command[2].split()[1])

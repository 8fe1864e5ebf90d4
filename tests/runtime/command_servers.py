"""Servers on which commands are tried out: their data as a value that can be compared, their stream as it is sent."""

import contextlib
import pathlib
import socket
from collections.abc import Iterator, Sequence
from typing import Any

import attrs
import hiredis
import redis

from bisync.core.commands import FUNCTIONS, Args, Write, same_place
from bisync.testing.servers import LocalServer, local_servers

# Lua: everything that two servers must agree on, without the times at which a group's entries were delivered.
DATA = b"""
local function data()
local out = {}
for _, db in ipairs({'0', '3'}) do
  redis.call('SELECT', db)
  for _, k in ipairs(redis.call('KEYS', '*')) do
    local t, v = redis.call('TYPE', k).ok, nil
    if t == 'string' then v = {redis.call('GET', k)}
    elseif t == 'list' then v = redis.call('LRANGE', k, 0, -1)
    elseif t == 'hash' then
      v = redis.call('HGETALL', k)
      for n = 1, #v, 2 do -- servers before 7.4 have no expiries of fields
        local at = redis.pcall('HPEXPIRETIME', k, 'FIELDS', 1, v[n])
        v[n + 1] = {v[n + 1], at.err and -1 or at[1]}
      end
    elseif t == 'set' then v = redis.call('SMEMBERS', k)
    elseif t == 'zset' then v = redis.call('ZRANGE', k, 0, -1, 'WITHSCORES')
    elseif t == 'vectorset' then
      v = redis.call('VRANDMEMBER', k, 1000)
      table.sort(v)
      for n, e in ipairs(v) do v[n] = {e, redis.call('VEMB', k, e), redis.call('VGETATTR', k, e)} end
    elseif t == 'array' then v = {redis.call('ARNEXT', k), redis.call('ARSCAN', k, 0, 1000000)}
    else v = {redis.call('XRANGE', k, '-', '+'), redis.call('XINFO', 'STREAM', k, 'FULL')} end
    out[#out + 1] = {db, k, t, v, redis.call('PEXPIRETIME', k)}
  end
end
redis.call('SELECT', '0')
return out
end
"""

# Lua: plays, each from nothing. Of each: did the last command change something? Which commands failed? The data.
PLAYS = DATA + b"""
local at, results = 0, {}
local function take() at = at + 1 return ARGV[at] end
local function dirty() return string.match(redis.call('INFO', 'persistence'), 'changes_since_last_save:(%d+)') end
for play = 1, tonumber(take()) do
  redis.call('FLUSHALL')
  local measured, count, failed, before, effect = take() == '1', tonumber(take()), {}, nil, 0
  for n = 1, count do
    local words = {}
    for w = 1, tonumber(take()) do words[w] = take() end
    if measured and n == count then before = dirty() end
    local reply = redis.pcall(unpack(words))
    if type(reply) == 'table' and reply.err then failed[#failed + 1] = n end
  end
  if measured and dirty() ~= before then effect = 1 end
  results[play] = {effect, failed, data()}
end
return results
"""
LIBRARY = b"#!lua name=other\nredis.register_function('other', function() return 2 end)"

Dataset = dict[tuple[int, bytes], tuple[bytes, Any, int]]


def as_dataset(reply: Sequence[Any]) -> Dataset:
    return {(int(db), k): (t, VALUES.get(t, tuple)(v), ttl) for db, k, t, v, ttl in reply}


def pairs(flat: Sequence[Any]) -> dict[Any, Any]:
    return dict(zip(flat[::2], flat[1::2], strict=True))


def stream_value(value: Sequence[Any]) -> Any:
    """Without a group's count of entries read: 7.0 does not send that to its own replicas either."""
    entries, info = value[0], pairs(value[1])
    groups = []
    for group in map(pairs, info[b"groups"]):
        consumers = {pairs(c)[b"name"] for c in group[b"consumers"]}
        pel = [(entry, consumer) for entry, consumer, _, _ in group[b"pending"]]
        groups.append((group[b"name"], group[b"last-delivered-id"], pel, consumers))
    repeats = info.get(b"idmp-duration"), info.get(b"idmp-maxsize"), info.get(b"iids-tracked")
    return entries, info[b"last-generated-id"], info[b"max-deleted-entry-id"], repeats, groups


VALUES: dict[bytes, Any] = {
    b"hash": lambda flat: {field: tuple(held) for field, held in pairs(flat).items()},  # its value and its expiry
    b"set": lambda v: dict.fromkeys(v, True),
    b"zset": pairs,
    b"stream": stream_value,
}


class Server:
    """A server that is emptied again and again."""

    def __init__(self, local: LocalServer) -> None:
        self.client, self.local = local.client(), local
        self.known: set[bytes] = set()  # its commands

    def begin(self, setup: Sequence[Args]) -> None:
        self.client.execute_command("SELECT", 0)
        self.client.execute_command("FLUSHALL")
        self.client.execute_command("FUNCTION", "FLUSH")
        self.run(setup)

    def run(self, commands: Sequence[Args]) -> None:
        for command in commands:
            self.client.execute_command(*command)

    def dataset(self) -> tuple[Dataset, Any]:
        reply = self.client.execute_command("EVAL", DATA + b"return data()", 0)
        return as_dataset(reply), self.client.execute_command("FUNCTION", "LIST", "WITHCODE")


@contextlib.contextmanager
def two_servers(folder: pathlib.Path) -> Iterator[tuple[Server, Server]]:
    """Two of them, of the version that is on PATH."""
    # one connection each, so that SELECT means something
    with local_servers(folder, "one", "two", options=("--repl-timeout", "3600")) as (one, two):  # see Stream
        pair = Server(one), Server(two)
        for server in pair:
            server.client = redis.Redis(port=server.local.port, protocol=2, single_connection_client=True)
            server.client.response_callbacks.clear()  # replies as they are
            server.known = {name.lower() for name in server.client.execute_command("COMMAND", "LIST")}
        yield pair
        for server in pair:
            server.client.close()


@attrs.frozen
class Played:
    """What came of some commands, from nothing."""

    effect: bool  # measured: did the last one change something, so that the server sends it to its replicas?
    failed: tuple[int, ...]  # which commands the server refused, counted from 1
    data: Dataset


def play(server: Server, plays: Sequence[Sequence[Args]], measured: bool = False) -> list[Played]:
    """Run each of the sequences of commands on an empty server."""
    found: list[Played] = []
    for batch in (plays[n : n + 200] for n in range(0, len(plays), 200)):
        words: list[bytes | int] = [len(batch)]
        for sequence in batch:
            words += [int(measured), len(sequence)]
            for command in sequence:
                words += [len(command), *command]
        replies = server.client.execute_command("EVAL", PLAYS, 0, *words)
        found += [Played(bool(effect), tuple(failed), as_dataset(data)) for effect, failed, data in replies]
    return found


class Stream:
    """What a server sends to its replicas, read as one of them. It acknowledges nothing: mind repl-timeout."""

    def __init__(self, local: LocalServer) -> None:
        self.socket = socket.create_connection(("127.0.0.1", local.port), timeout=20)
        self.file = self.socket.makefile("rb")
        self.reader = hiredis.Reader()
        self.socket.sendall(b"PSYNC ? -1\r\n")
        while not (line := self.file.readline()).startswith(b"$"):
            pass
        self.file.read(int(line[1:]))

    def until(self, marker: bytes) -> list[Args]:
        """The commands before the message `marker` to a channel of our own."""
        commands: list[Args] = []
        while True:
            while (command := self.reader.gets()) is not False:
                if command == [b"PUBLISH", b"marker", marker]:
                    return commands
                commands.append(tuple(command))
            data = self.file.read1()  # type: ignore[attr-defined]
            assert data, "the server ended the replication"
            self.reader.feed(data)

    def close(self) -> None:
        self.file.close()
        self.socket.close()


def changes(place: tuple[int, bytes], before: Dataset, after: Dataset) -> Iterator[Write]:
    """The smallest units that differ."""
    old, new = before.get(place), after.get(place)
    if (old[2] if old else -1) != (new[2] if new else -1):
        yield Write(*place, ("ttl", b""))
    kinds = {held[0] for held in (old, new) if held}
    if len(kinds) == 1 and kinds <= {b"hash", b"set", b"zset"}:
        a, b = old[1] if old else {}, new[1] if new else {}
        yield from (
            Write(*place, (kinds.copy().pop().decode(), e)) for e in a.keys() | b.keys() if a.get(e) != b.get(e)
        )
    elif (old and old[:2]) != (new and new[:2]):
        yield Write(*place)


def covers(write: Write, changed: Write) -> bool:
    """Does a write of the one place allow for a change of the other?"""
    return same_place(write, changed) and (write.element is None or write.element == changed.element)


def spoilers(write: Write) -> list[Args]:
    """Commands that make of a unit something else."""
    key = write.key
    if write.database < 0:
        return [(b"SET", b"other", b"x")]
    if write.database == FUNCTIONS[0]:
        return [(b"FUNCTION", b"LOAD", LIBRARY), (b"FUNCTION", b"FLUSH")]
    if write.element is None:
        return [(b"SET", key, b"other", b"PX", b"99999999"), (b"DEL", key)]
    kind, name = write.element
    return {
        "ttl": [(b"PEXPIRE", key, b"999999"), (b"PERSIST", key)],
        "hash": [(b"HSET", key, name, b"9"), (b"HDEL", key, name)],
        "set": [(b"SADD", key, name), (b"SREM", key, name)],
        "zset": [(b"ZADD", key, b"99", name), (b"ZREM", key, name)],
    }[kind]


def unit(write: Write, dataset: Dataset, functions: Any = None) -> Any:
    """What a place holds."""
    if write.database < 0:
        return {place: held for place, held in dataset.items() if not write.databases or place[0] in write.databases}
    if write.database == FUNCTIONS[0]:
        return functions
    held = dataset.get((write.database, write.key))
    if held is None:
        return None
    if write.element is None:
        return held
    return held[2] if write.element[0] == "ttl" else held[1].get(write.element[1])

"""Reading a whole site by the read commands of each type, with no help of bisync, and comparing two sites.

Servers of different versions tell different things about a key. A key is read as aspects by name, and two sites are
compared in the aspects that both tell; the value itself is always one of them.
"""

from collections.abc import Callable, Sequence
from typing import Any

import redis

from tests.versions.contents import raw_client

EXPIRY_APART_MS = 2_000  # servers before 7.0 send relative times to their replicas, which count from their arrival
AT_ONCE = 500  # elements that are asked for with one command

Aspects = dict[str, Any]
Site = dict[tuple[int, bytes], Aspects]


def read_site(server: Any) -> Site:
    """All keys of a LocalServer but those of bisync, by (database, key)."""
    found: Site = {}
    with server.client() as client:
        databases = sorted(int(name[2:]) for name in client.info("keyspace"))
    for db in databases:
        with raw_client(server, db) as client:
            for key in _keys(client):
                if (aspects := _read(client, key)) is not None:
                    found[db, key] = aspects
    with raw_client(server) as client:
        if (functions := _ask(client, "FUNCTION", "LIST", "WITHCODE")) is not None:
            found[-1, b"functions"] = {"value": sorted(str(_fields(library)) for library in functions)}
    return found


def _keys(client: "redis.Redis") -> list[bytes]:
    cursor, found = b"0", set()
    while True:
        cursor, page = client.execute_command("SCAN", cursor, "COUNT", 1_000)
        found.update(key for key in page if not key.startswith(b"bisync:"))
        if cursor == b"0":
            return sorted(found)


def _ask(client: "redis.Redis", *words: Any) -> Any:
    """The reply; None where the server does not know the command or its option."""
    try:
        return client.execute_command(*words)
    except redis.ResponseError as e:
        text = str(e).lower()
        if not any(known in text for known in ("unknown command", "unknown subcommand", "syntax error", "try ")):
            raise
        return None


def _read(client: "redis.Redis", key: bytes) -> Aspects | None:
    """None: there is no such key any more."""
    kind = client.execute_command("TYPE", key).decode()
    if kind == "none":
        return None
    aspects: Aspects = {"type": kind, "expiry": _expiry(client, key), **READS[kind](client, key)}
    return aspects if client.execute_command("EXISTS", key) else None


def _expiry(client: "redis.Redis", key: bytes) -> int | None:
    """As a Unix time in ms."""
    with client.pipeline(transaction=True) as pipe:
        pipe.execute_command("TIME")
        pipe.execute_command("PTTL", key)
        (seconds, micros), left = pipe.execute()
    return None if left < 0 else int(seconds) * 1000 + int(micros) // 1000 + int(left)


def _string(client: "redis.Redis", key: bytes) -> Aspects:
    return {"value": client.execute_command("GET", key)}


def _list(client: "redis.Redis", key: bytes) -> Aspects:
    return {"value": client.execute_command("LRANGE", key, 0, -1)}


def _set(client: "redis.Redis", key: bytes) -> Aspects:
    return {"value": sorted(client.execute_command("SMEMBERS", key))}


def _hash(client: "redis.Redis", key: bytes) -> Aspects:
    value = _fields(client.execute_command("HGETALL", key))
    aspects: Aspects = {"value": value}
    names = sorted(value)
    if names and _ask(client, "HPEXPIRETIME", key, "FIELDS", 1, names[0]) is not None:
        moments: list[int] = []
        for at in range(0, len(names), AT_ONCE):
            some = names[at : at + AT_ONCE]
            moments += client.execute_command("HPEXPIRETIME", key, "FIELDS", len(some), *some)
        aspects["field expiries"] = dict(zip(names, moments, strict=True))
    return aspects


def _sorted_set(client: "redis.Redis", key: bytes) -> Aspects:
    """In order. Scores as numbers: versions write them in different ways, and some encodings turn -0 into 0."""
    flat = client.execute_command("ZRANGE", key, 0, -1, "WITHSCORES")
    return {"value": [(member, float(score)) for member, score in zip(flat[::2], flat[1::2], strict=True)]}


def _stream(client: "redis.Redis", key: bytes) -> Aspects:
    head = _fields(client.execute_command("XINFO", "STREAM", key))
    aspects: Aspects = {"value": client.execute_command("XRANGE", key, "-", "+"), "groups": {}}
    told = (b"last-generated-id", b"max-deleted-entry-id", b"entries-added", b"idmp-duration", b"idmp-maxsize")
    aspects |= {name.decode(): head[name] for name in told if name in head}
    consumers: dict[bytes, list[bytes]] = {}
    for group in map(_fields, client.execute_command("XINFO", "GROUPS", key)):
        name = group[b"name"]
        pending = client.execute_command("XPENDING", key, name, "-", "+", 1_000_000)
        # not how long an entry was idle
        aspects["groups"][name] = (group[b"last-delivered-id"], [(p[0], p[1], p[3]) for p in pending])
        known = map(_fields, client.execute_command("XINFO", "CONSUMERS", key, name))
        consumers[name] = sorted(consumer[b"name"] for consumer in known)
    if b"entries-added" in head:
        aspects["consumers"] = consumers  # before 7.0, one with nothing pending may be unknown to a replica
    return aspects


def _vectors(client: "redis.Redis", key: bytes) -> Aspects:
    names = sorted(client.execute_command("VRANDMEMBER", key, client.execute_command("VCARD", key)))
    vectors = {n: (client.execute_command("VEMB", key, n), client.execute_command("VGETATTR", key, n)) for n in names}
    return {"value": vectors, "dimension": client.execute_command("VDIM", key)}


def _array(client: "redis.Redis", key: bytes) -> Aspects:
    return {"value": client.execute_command("ARSCAN", key, 0, 2**63), "next": client.execute_command("ARNEXT", key)}


READS: dict[str, Callable[["redis.Redis", bytes], Aspects]] = {
    **{"string": _string, "list": _list, "set": _set, "hash": _hash, "zset": _sorted_set, "stream": _stream},
    **{"vectorset": _vectors, "array": _array},
}
"""By the name that TYPE replies."""


def _fields(flat: Any) -> dict[bytes, Any]:
    return dict(zip(flat[::2], flat[1::2], strict=True))


def differences(a: Site, b: Site) -> list[str]:
    """What is not the same, in words."""
    found = []
    for place in sorted(a.keys() | b.keys()):
        here, there = a.get(place), b.get(place)
        if here is None or there is None:
            if place != (-1, b"functions"):  # the older one of two servers may have none
                found.append(f"{place}: only at the {'second' if here is None else 'first'} site")
            continue
        names = here.keys() & there.keys()
        for name in sorted(names):
            if not _same(name, here[name], there[name]):
                found.append(f"{place}: {name}: {_shown(here[name], there[name])}")
    return found


def _same(name: str, here: Any, there: Any) -> bool:
    if name == "expiry" and here is not None and there is not None:
        return bool(abs(here - there) <= EXPIRY_APART_MS)
    return bool(here == there)


def _shown(here: Any, there: Any) -> str:
    if isinstance(here, Sequence) and isinstance(there, Sequence) and len(here) == len(there):
        at = next((n for n, (x, y) in enumerate(zip(here, there)) if x != y), 0)
        return f"from {at}: {str(here[at : at + 3])[:150]} and {str(there[at : at + 3])[:150]}"
    return f"{str(here)[:150]} and {str(there)[:150]}"

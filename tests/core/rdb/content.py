"""Values as the reader hands them out, in the form in which a sample's second file has the server's own replies."""

import json
from collections.abc import Iterable, Iterator
from typing import Any

import attrs

from bisync.core.rdb import (
    ArrayState,
    Element,
    Item,
    RdbReader,
    StreamConsumer,
    StreamEntry,
    StreamGroup,
    StreamIdempotence,
    StreamPending,
    StreamRecord,
    StreamState,
    String,
    Value,
    ValueBegins,
    ValueEnds,
    ValuePiece,
    decode_payload,
)
from tests.core.rdb.making import SAMPLES, Told, text

NAMES = sorted(path.stem for path in SAMPLES.glob("*.rdb"))


def sample(name: str) -> bytes:
    """A real RDB."""
    return (SAMPLES / f"{name}.rdb").read_bytes()


def expected(name: str) -> Told:
    """What the server said about it."""
    told: Told = json.loads((SAMPLES / f"{name}.json").read_text())
    return told


def read(data: bytes, step: int = 1 << 20, **options: Any) -> list[Item]:
    """All items of an RDB that is fed in pieces of `step` bytes."""
    reader, items = RdbReader(**options), []
    for at in range(0, len(data), step):
        items += reader.feed(data[at : at + step])
    reader.close()
    assert reader.offset == len(data)
    return items


@attrs.frozen
class Key:
    """A key with its elements, from whatever items it came in."""

    database: int
    key: bytes
    kind: str
    type: int
    expires_at_ms: int | None
    elements: list[Element]


def keys(items: Iterable[Item]) -> Iterator[Key]:
    """The keys among the items, decoded."""
    begun, elements = None, list[Element]()
    for item in items:
        match item:
            case String():
                yield Key(item.database, item.key, "string", 0, item.expires_at_ms, [item.value])
            case Value():
                decoded = decode_payload(item.payload)
                yield Key(item.database, item.key, decoded.kind, item.type, item.expires_at_ms, list(decoded.elements))
            case ValueBegins():
                assert begun is None
                begun, elements = item, []
            case ValuePiece():
                assert begun is not None and begun.kind == item.kind and item.elements
                elements += item.elements
            case ValueEnds():
                assert begun is not None and (item.database, item.key) == (begun.database, begun.key)
                yield Key(begun.database, begun.key, begun.kind, begun.type, begun.expires_at_ms, elements)
                begun = None
    assert begun is None


def compare(found: Iterable[Key], told: Told) -> None:
    """Fails with the first key that is not what the server said."""
    missing = set(told)
    for key in found:
        name = f"{key.database} {text(key.key)}"
        kind, expires, content = told[name]
        assert (name, key.kind) == (name, "module" if kind == "vectorset" else kind)
        assert (name, key.expires_at_ms) == (name, expires)
        told_content, own_content = FORMS[key.kind](content, key.elements)
        assert (name, own_content) == (name, told_content)
        missing.remove(name)
    assert not missing


def _sorted_set(content: Any, elements: list[Any]) -> tuple[Any, Any]:
    members = {member: float(score) for member, score in zip(content[::2], content[1::2], strict=True)}
    return members, {text(member): score for member, score in elements}


def _array(content: Any, elements: list[Any]) -> tuple[Any, Any]:
    state, *pairs = elements
    assert isinstance(state, ArrayState) and state.elements == len(pairs)
    following = 0 if state.last_insert is None else state.last_insert + 1
    return content, [following, [[index, text(value)] for index, value in pairs]]


def stream_id(id: tuple[int, int] | None) -> str:
    """As replies have it."""
    return "" if id is None else f"{id[0]}-{id[1]}"


def _stream(content: Any, elements: list[Any]) -> tuple[Any, Any]:
    told_entries, told_state, told_groups = content
    entries = [[stream_id(e.id), text(e.fields)] for e in elements if isinstance(e, StreamEntry)]
    [state] = [e for e in elements if isinstance(e, StreamState)]
    assert state.entries == len(entries)
    facts: dict[str, Any] = {
        "length": state.entries,
        "last-generated-id": stream_id(state.last_id),
        "max-deleted-entry-id": stream_id(state.max_deleted_id),
        "entries-added": state.entries_added,
        "recorded-first-entry-id": stream_id(state.first_id),
    }
    for settings in (e for e in elements if isinstance(e, StreamIdempotence)):
        facts |= {"idmp-duration": settings.duration_s, "idmp-maxsize": settings.max_entries}
    own = [entries, {name: facts[name] for name in told_state}, _groups(elements, told_groups)]
    return content, own


def _groups(elements: list[Any], told: Any) -> list[Any]:
    groups: list[Any] = []
    consumer = b""
    for e in elements:
        match e:
            case StreamGroup():
                facts = {
                    "name": text(e.name),
                    "last-delivered-id": stream_id(e.last_id),
                    "entries-read": e.entries_read,
                }
                groups.append([facts, [], [], []])
            case StreamConsumer():
                consumer = e.name
                groups[-1][1].append([text(e.name), e.seen_ms, e.active_ms])
            case StreamPending():
                id = stream_id(e.id)
                groups[-1][3].append([id, text(consumer) if e.owned else "", e.delivered_ms, e.deliveries])
                if e.owned:
                    groups[-1][2].append([id, text(consumer), e.delivered_ms, e.deliveries])
    for own, (facts, people, owned, pending) in zip(groups, told, strict=True):
        own[0] = {name: own[0][name] for name in facts}
        own[1].sort()
        if people and people[0][1] is None:  # what the server did not tell
            own[1] = [[name, None, None] for name, _, _ in own[1]]
            own[2] = [[id, name, None, count] for id, name, _, count in own[2]]
        elif people and people[0][2] is None:
            own[1] = [[name, seen, None] for name, seen, _ in own[1]]
        own[2].sort()
        own[3] = sorted(own[3]) if pending is not None else None
    return groups


def records(elements: list[Any]) -> list[tuple[bytes, bytes]]:
    """What producers have added to a stream."""
    return [(e.producer, e.idempotence_id) for e in elements if isinstance(e, StreamRecord)]


FORMS: dict[str, Any] = {
    "string": lambda content, elements: (content, text(b"".join(elements))),
    "list": lambda content, elements: (content, text(elements)),
    "set": lambda content, elements: (content, text(sorted(elements))),
    "zset": _sorted_set,
    "hash": lambda content, elements: (content, text(sorted(map(list, elements), key=lambda e: e[0]))),
    "stream": _stream,
    "array": _array,
    "module": lambda content, elements: (content, None),
}

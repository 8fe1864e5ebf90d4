"""One direction of a job, before anything has happened."""

from bisync.core.channel import Channel, Counters
from bisync.core.link import Link
from bisync.core.operation import Understanding
from bisync.core.position import START
from bisync.core.rules import Rules


def channel(origin: str) -> Channel:
    rules = Rules("job", "east", "west")
    link = Link(b"tag", batch_commands=10, batch_bytes=1000)
    return Channel(rules.channel(origin), origin, rules.other(origin), link, Understanding(rules, origin))


def test_a_new_channel_has_done_and_seen_nothing() -> None:
    new = channel("east")
    assert new.applied == new.resumed == new.told == new.seen == START
    assert (new.reader, new.tag, len(new.pending), len(new.inbox)) == (None, None, 0, 0)
    assert new.counters == Counters() == Counters(0, 0, None)


def test_channels_share_nothing() -> None:
    one, other = channel("east"), channel("west")
    one.failed[START] = (0,)
    one.counters.operations += 1
    assert (len(other.failed), other.counters.operations) == (0, 0)
    assert one != channel("east"), "a channel is itself, and not what it holds"

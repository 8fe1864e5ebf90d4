"""From what a reader knows to when a write was made: the truth is within, and what proves nothing is not used."""

import attrs
from hypothesis import given
from hypothesis import strategies as st

from bisync.core.moment import Moment
from bisync.runtime import dating as module
from bisync.runtime.arrivals import Received
from bisync.runtime.dating import SERVER_US, UNKNOWN_US, Dating

T = 1_000_000_000  # where the time of these tests begins, in µs
WAY_US = 300
MS, S = 1_000, 1_000_000


def received(size: int, empty_us: int, came_us: int, segments: int | None = 1) -> Received:
    return Received(b"x" * size, empty_us, came_us, came_us, segments, 40)


def calm(offset: int = 0) -> Dating:
    """One that knows the way and has read all there is."""
    dating = Dating(offset)
    dating.sounded(T, T + WAY_US, offset)
    return dating


@attrs.define
class Run:
    """A site, the way to it and a reader, with every time known."""

    way_us: int
    out_us: int
    writes: list[tuple[int, int, int]] = attrs.field(factory=list)  # time, start, end

    def end_at(self, us: int) -> int:
        """How far the stream reached at the site."""
        return max((end for at, _, end in self.writes if at <= us), default=0)

    def arrived_at(self, us: int) -> int:
        """How far it has come to the reader."""
        return self.end_at(us - self.way_us)


STEPS = st.lists(
    st.tuples(st.sampled_from(["write", "look", "sound"]), st.integers(0, 4 * MS), st.integers(20, 200)),
    min_size=1,
    max_size=80,
)


@given(STEPS, st.integers(0, 2 * MS), st.integers(0, 2 * MS), st.booleans())
def test_every_write_is_within_its_bracket(
    steps: list[tuple[str, int, int]], way_us: int, out_us: int, held: bool
) -> None:
    run, us, at = Run(way_us, out_us), T, []
    for kind, pause_us, size in steps:
        us += pause_us
        if kind == "write":
            start = run.writes[-1][2] if run.writes else 0
            run.writes.append((us, start, start + size))
        at.append((us, kind))
    at += [(us + 10 * MS, "sound"), (us + 20 * MS, "look")]
    released_us = us // 2 + T // 2 if held else 0  # until then the server sends nothing
    dating, marks = Dating(0, held=held), []
    events = [(us, "look", 0) for us, kind in at if kind == "look"]
    events += [(us + out_us + way_us, "answer", us) for us, kind in at if kind == "sound"]
    empty_us, read = 0, 0
    for us, kind, sent_us in sorted(events):
        if kind == "answer":
            dating.sounded(sent_us, us, run.end_at(sent_us + out_us))
        elif (end := run.arrived_at(us) if us > released_us else 0) > read:
            marks += dating.read(received(end - read, empty_us, us))
            empty_us, read = us, end
        else:
            empty_us = us
    assert read == (run.writes[-1][2] if run.writes else 0) == dating.end
    for us, start, _ in run.writes:
        found = next(moment for end, moment in marks if end > start)
        assert found.earliest_us <= us <= found.latest_us, (us - T, found, marks)


def test_the_bracket_of_a_lone_write_is_as_wide_as_the_way() -> None:
    (mark,) = calm().read(received(50, T + S, T + S + 20))
    assert mark == (50, Moment(T + S - WAY_US - SERVER_US, T + S + 20))


def test_the_smallest_recent_round_trip_counts() -> None:
    dating = calm()
    for n in range(module.TRIPS - 1):
        dating.sounded(T + n * S, T + n * S + 50 * MS, 0)
    assert dating.way_us == WAY_US
    dating.sounded(T + 90 * S, T + 90 * S + 50 * MS, 0)
    assert dating.way_us == 50 * MS, "an old one counts for ever"


def test_before_any_sounding_nothing_is_known_but_the_time_of_the_read() -> None:
    assert Dating(10).read(received(5, T, T + 9)) == [(15, Moment(UNKNOWN_US, T + 9))]


def test_after_a_cut_it_is_not_older_than_what_was_read_before() -> None:
    assert Dating(10, T).read(received(5, T + S, T + S + 9)) == [(15, Moment(T, T + S + 9))]


def test_a_server_that_waits_for_an_ack_holds_back_what_it_has() -> None:
    dating = Dating(0, held=True)
    dating.sounded(T, T + WAY_US, 0)
    assert not dating.trusted
    (mark,) = dating.read(received(50, T + S, T + S + 20))
    assert mark[1].earliest_us == T, "the empty socket was taken for an idle server"
    dating.sounded(T + 2 * S, T + 2 * S + WAY_US, 50)
    assert dating.trusted


def test_bytes_that_a_sounding_knew_of_while_the_socket_was_empty_are_old() -> None:
    dating = calm()
    dating.sounded(T + S, T + S + WAY_US, 80)
    marks = dating.read(received(120, T + 3 * S, T + 3 * S + 10))
    assert marks == [(80, Moment(T, T + S + WAY_US)), (120, Moment(T + S, T + 3 * S + 10))]


def test_after_a_pile_only_soundings_count_until_one_shows_its_end() -> None:
    dating = calm()
    dating.read(received(module.PILE_BYTES, T + S, T + S + 10))
    assert dating.catching_up
    (mark,) = dating.read(received(10, T + 2 * S, T + 2 * S + 10))
    assert mark[1].earliest_us == T + S - WAY_US - SERVER_US
    dating.sounded(T + 3 * S, T + 3 * S + WAY_US, dating.end)
    assert not dating.catching_up
    (mark,) = dating.read(received(10, T + 4 * S, T + 4 * S + 10))
    assert mark[1].earliest_us == T + 4 * S - WAY_US - SERVER_US


def test_after_a_full_window_of_segments_tcp_may_have_held_back_more() -> None:
    dating = calm()
    first = dating.read(received(500, T + S, T + S + 20 * MS, module.WINDOW_SEGMENTS))
    held = dating.read(received(50, T + S + 20 * MS - 5, T + S + 20 * MS + 100))
    assert held[0][1].earliest_us == first[0][1].earliest_us == T + S - WAY_US - SERVER_US
    (later,) = dating.read(received(50, T + 2 * S, T + 2 * S + 10))  # a round trip later all of it has come
    assert later[1].earliest_us == T + 2 * S - WAY_US - SERVER_US


def test_where_segments_are_not_counted_small_ones_are_assumed() -> None:
    dating = calm()
    dating.read(received(module.SMALL_BYTES * module.WINDOW_SEGMENTS, T + S, T + S + 9, segments=None))
    (mark,) = dating.read(received(50, T + S + 5, T + S + 30))
    assert mark[1].earliest_us == T + S - WAY_US - SERVER_US


def test_an_account_that_may_not_ask_learns_from_silence() -> None:
    dating = Dating(0)
    dating.sounded(T, T + WAY_US, None)
    dating.read(received(10, T, T + S))
    (soon,) = dating.read(received(10, T + S + MS, T + S + 2 * MS))
    assert soon[1].earliest_us == UNKNOWN_US
    (later,) = dating.read(received(10, T + 3 * S, T + 3 * S + 5))
    assert later[1].earliest_us == T + 3 * S - WAY_US - SERVER_US
    assert not dating.catching_up


def test_soundings_that_nobody_reads_up_to_are_bounded() -> None:
    dating = calm()
    for n in range(5 * module.SOUNDINGS_MAX):
        dating.sounded(T + n, T + n + 1, n + 1)
    assert len(dating._soundings) <= module.SOUNDINGS_MAX and dating._soundings[-1].offset == 5 * module.SOUNDINGS_MAX

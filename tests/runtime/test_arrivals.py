"""When bytes came: the pass of the loop before, the kernel's stamp, and a reader that is late."""

import contextlib
import os
import pathlib
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator

import pytest
import trio

from bisync.runtime import arrivals as module
from bisync.runtime.arrivals import Arrivals, Received
from bisync.runtime.passes import SLACK_US, UNKNOWN_SLACK_US, Passes
from bisync.runtime.wallclock import WallClock

CLOCK = WallClock()
LATE_S = 0.05


@contextlib.asynccontextmanager
async def connected(passes: Passes) -> AsyncIterator[tuple[Arrivals, socket.socket]]:
    """A reader, and the other end of its connection."""
    with passes.watching(), socket.create_server(("127.0.0.1", 0)) as server:
        async with await trio.open_tcp_stream(*server.getsockname()) as stream:
            other, _ = server.accept()
            other.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with other, contextlib.closing(Arrivals(stream, 0, passes)) as arrivals:
                yield arrivals, other


def sent(other: socket.socket, data: bytes = b"x") -> tuple[int, int]:
    """Send; the times before and after, in µs."""
    before_us = CLOCK.now_us()
    other.sendall(data)
    return before_us, CLOCK.now_us()


def assert_holds(received: Received, times: tuple[int, int]) -> None:
    assert received.empty_us <= times[1] and received.came_us >= times[0], (received, times)
    assert received.came_us <= received.read_us


@pytest.fixture(params=["stamped", "not stamped"])
def stamped(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """With the kernel's help, and without."""
    if request.param == "not stamped":
        monkeypatch.setattr(Arrivals, "_stamped_us", lambda *_: None)
        monkeypatch.setattr(Arrivals, "_tcp_info", lambda *_: (None, None, False))
    return request.param == "stamped"


@pytest.mark.slow
async def test_bytes_that_wake_the_reader_came_between_the_two_times(stamped: bool) -> None:
    times: list[tuple[int, int]] = []

    def send(other: socket.socket) -> None:
        for _ in range(100):
            time.sleep(0.003)
            times.append(sent(other))

    async with connected(Passes(CLOCK)) as (arrivals, other):
        thread = threading.Thread(target=send, args=(other,))
        thread.start()
        got: list[Received] = []
        while sum(len(r.data) for r in got) < 100:
            got.append(await arrivals.read())
        thread.join()
    at = 0
    for received in got:
        for n in range(at, at + len(received.data)):
            assert_holds(received, times[n])
        at += len(received.data)


@pytest.mark.slow
async def test_a_reader_that_is_late_knows_that_it_is(stamped: bool) -> None:
    async with connected(Passes(CLOCK)) as (arrivals, other):
        times = sent(other)
        assert_holds(await arrivals.read(), times)
        for data in (b"one", b"two"):
            times = sent(other, data)
            time.sleep(LATE_S)  # the whole thread is held up, as by a long computation
            received = await arrivals.read()
            assert received.data == data
            assert_holds(received, times)
            wide = received.came_us - received.empty_us
            assert wide < LATE_S * 500_000 if stamped and received.segments == 1 else wide >= LATE_S * 1e6


@pytest.mark.slow
async def test_of_several_pieces_the_first_was_not_stamped(stamped: bool) -> None:
    async with connected(Passes(CLOCK)) as (arrivals, other):
        sent(other)
        await arrivals.read()
        first = sent(other)
        time.sleep(LATE_S)
        last = sent(other)
        received = await arrivals.read()
        assert received.data == b"xx"
        assert_holds(received, first)
        assert_holds(received, last)
        assert received.segments in (None, 2)


async def test_a_segment_that_was_read_in_part_does_not_hide_behind_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RECEIVE_BYTES", 10)
    async with connected(Passes(CLOCK)) as (arrivals, other):
        sent(other)
        await arrivals.read()
        first = sent(other, b"x" * 15)
        assert len((await arrivals.read()).data) == 10
        time.sleep(LATE_S)
        sent(other, b"x" * 5)
        received = await arrivals.read()
        assert len(received.data) == 10
        assert_holds(received, first)


async def test_a_step_of_the_machines_clock_does_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    async with connected(Passes(CLOCK)) as (arrivals, other):
        sent(other)
        await arrivals.read()
        for step_s in (3600, -7200):
            times = sent(other)
            real = time.time_ns
            monkeypatch.setattr(time, "time_ns", lambda real=real, by=step_s: real() + by * 1_000_000_000)
            assert_holds(await arrivals.read(), times)


async def test_others_have_their_turn_though_there_is_always_more_to_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RECEIVE_BYTES", 10)
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await trio.lowlevel.checkpoint()

    async with connected(Passes(CLOCK)) as (arrivals, other), trio.open_nursery() as nursery:
        nursery.start_soon(count)
        sent(other, b"x" * 200)
        for _ in range(20):
            assert len((await arrivals.read()).data) == 10
        assert turns > 10
        nursery.cancel_scope.cancel()


async def test_the_end_of_the_other_side_is_no_bytes() -> None:
    async with connected(Passes(CLOCK)) as (arrivals, other):
        other.close()
        assert (await arrivals.read()).data == b""


# -- passes
class Ticking:
    """A clock that is told."""

    def __init__(self) -> None:
        self.us = 1_000_000

    def now_us(self) -> int:
        return self.us


@pytest.fixture
def ticking(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Ticking, Passes]]:
    clock = Ticking()
    passes = Passes(clock)  # type: ignore[arg-type]
    monkeypatch.setattr(Passes, "_delay_us", lambda _: SLACK_US)
    yield clock, passes


def pass_once(clock: Ticking, passes: Passes, us: int) -> tuple[int, int]:
    """A pass that lasts so long. When it began and when it ended."""
    clock.us += 10
    began_us = clock.us
    passes.before_io_wait(1.0)
    clock.us += us
    passes.after_io_wait(1.0)
    return began_us, clock.us


def test_what_woke_a_sleeper_came_at_the_end_of_its_sleep(ticking: tuple[Ticking, Passes]) -> None:
    _, ended_us = pass_once(*ticking, 50_000)
    assert ticking[1].empty_us == ended_us - SLACK_US


def test_what_a_short_pass_reports_came_after_the_pass_before_it(ticking: tuple[Ticking, Passes]) -> None:
    began_us, _ = pass_once(*ticking, 5)
    pass_once(*ticking, 5)
    assert ticking[1].empty_us == began_us
    _, ended_us = pass_once(*ticking, 50_000)
    pass_once(*ticking, 5)
    assert ticking[1].empty_us == ended_us - SLACK_US


def test_a_thread_that_was_kept_from_running_does_not_know_when_it_was_woken(
    ticking: tuple[Ticking, Passes], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, passes = ticking
    monkeypatch.setattr(Passes, "_delay_us", lambda _: 20_000)
    _, ended_us = pass_once(clock, passes, 50_000)
    assert passes.empty_us == ended_us - 20_000
    before_us, _ = pass_once(clock, passes, 5)
    pass_once(clock, passes, 10_000)
    assert passes.empty_us == before_us


@pytest.fixture
def schedstat() -> None:
    if not pathlib.Path("/proc/thread-self/schedstat").exists():
        pytest.skip("this system does not tell how long a thread was kept from running, nor how often")


async def test_how_long_the_thread_was_kept_from_running_is_read_from_the_system(
    schedstat: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes, waited_ns, turns = Passes(CLOCK), 5_000_000, 7
    monkeypatch.setattr(os, "pread", lambda *_: b"123 %d %d\n" % (waited_ns, turns))
    with passes.watching():
        passes.before_io_wait(1.0)
        turns += 1
        at_once_us = passes._delay_us()
        waited_ns += 2_000_000
        assert passes._delay_us() - at_once_us == 2_000


@pytest.mark.parametrize("more", [0, 2, 3])
async def test_a_pass_in_which_the_thread_did_something_else_than_sleep_once_is_no_sleep(
    schedstat: None, monkeypatch: pytest.MonkeyPatch, more: int
) -> None:
    clock, turns = Ticking(), 7
    passes = Passes(clock)  # type: ignore[arg-type]
    monkeypatch.setattr(os, "pread", lambda *_: b"123 0 %d\n" % turns)
    with passes.watching():
        passes.before_io_wait(0.0)
        passes.after_io_wait(0.0)
        before_us = clock.us
        clock.us += 10
        passes.before_io_wait(1.0)
        clock.us += 2_000_000
        turns += more
        passes.after_io_wait(1.0)
        assert passes.empty_us == before_us


SLEEPER = """
import sys, trio
from bisync.runtime.passes import Passes
from bisync.runtime.wallclock import WallClock

async def main():
    passes = Passes(WallClock())
    with passes.watching():
        await trio.sleep(0.05)
        print("sleeps", flush=True)
        await trio.lowlevel.wait_readable(sys.stdin)
        print(passes.entered_us, passes.empty_us, flush=True)

trio.run(main)
"""


@pytest.mark.slow
@pytest.mark.parametrize("frozen", [False, True])
def test_a_process_that_was_frozen_does_not_take_it_for_a_sleep(schedstat: None, frozen: bool) -> None:
    words, pipe = [sys.executable, "-c", SLEEPER], subprocess.PIPE
    with subprocess.Popen(words, stdin=pipe, stdout=pipe, text=True) as sleeper:
        assert sleeper.stdin is not None and sleeper.stdout is not None
        assert sleeper.stdout.readline() == "sleeps\n"
        time.sleep(0.1)  # it does
        if frozen:
            sleeper.send_signal(signal.SIGSTOP)
            os.waitid(os.P_PID, sleeper.pid, os.WSTOPPED | os.WNOWAIT)
        sleeper.stdin.write("x")
        sleeper.stdin.flush()
        if frozen:
            time.sleep(0.05)
            sleeper.send_signal(signal.SIGCONT)
        entered_us, empty_us = map(int, sleeper.stdout.readline().split())
    if frozen:
        assert empty_us <= entered_us
    else:
        assert empty_us > entered_us + 50_000


def test_a_thread_of_ours_that_ran_may_have_held_the_interpreter() -> None:
    passes = Passes(CLOCK)
    passes.before_io_wait(1.0)
    thread = threading.Thread(target=lambda: sum(range(200_000)))
    thread.start()
    thread.join()
    assert passes._delay_us() > 3_600_000_000
    passes.before_io_wait(1.0)
    assert passes._delay_us() <= SLACK_US + UNKNOWN_SLACK_US

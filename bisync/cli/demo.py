"""`bisync demo`: shows the main job on two local servers, and whether the sites ended equal."""

import contextlib
import json
import signal
import textwrap
import threading
from collections.abc import Iterator

import click

WIDTH = 100  # columns of the text


@click.command(name="demo")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on standard output; the text goes to stderr.")
@click.option("--keep", is_flag=True, help="Keep the folder with the job file, its store and all logs.")
@click.option("--sabotage", is_flag=True, hidden=True, help="Make the sites differ at the end.")
@click.pass_context
def command(ctx: click.Context, as_json: bool, keep: bool, sabotage: bool) -> None:
    """Show bisync at work: two local Redis servers, writers on both, a conflict, a crash, a verdict.

    Takes about 10 seconds, needs a redis-server, and leaves nothing behind. Exit status: 0 if the two sites ended
    equal, 1 if not.
    """
    from bisync.demo import demonstrate

    teller = Teller(to_stderr=as_json)
    with _interruptible():
        findings = demonstrate(teller.step, teller.result, keep=keep, sabotage=sabotage)
    if as_json:
        import attrs

        click.echo(json.dumps(attrs.asdict(findings), indent=2))
    verdict = "The two sites ended equal" if findings.equal else "The two sites are NOT equal"
    click.echo(f"\n{verdict}. {findings.seconds:.0f} s in all.", err=as_json)
    ctx.exit(0 if findings.equal else 1)


class Teller:
    """Prints numbered steps, and under each what came out of it."""

    def __init__(self, *, to_stderr: bool) -> None:
        self._to_stderr, self._number = to_stderr, 0

    def step(self, text: str) -> None:
        """A new step begins."""
        self._number += 1
        click.echo(f"\n{self._fill(text, f'{self._number}. ')}", err=self._to_stderr)

    def result(self, text: str) -> None:
        """Something came out of the step."""
        click.echo(self._fill(text, "   "), err=self._to_stderr)

    @staticmethod
    def _fill(text: str, first: str) -> str:
        if text.startswith(" "):  # a line of a file, as it is
            return f"{first}{text}"
        return textwrap.fill(
            text, WIDTH, initial_indent=first, subsequent_indent="   ", break_on_hyphens=False, break_long_words=False
        )


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """SIGTERM and SIGHUP do what Ctrl-C does. A second one is ignored, so that it cannot break off the cleaning up."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def interrupt(*_: object) -> None:
        for s in signals:
            signal.signal(s, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = [signal.signal(s, interrupt) for s in signals]
    try:
        yield
    finally:
        for s, handler in zip(signals, before):
            signal.signal(s, handler)

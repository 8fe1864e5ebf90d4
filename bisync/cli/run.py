"""`bisync run JOB`: runs a job in the foreground, until it is told to stop."""

import contextlib
import functools
import gc
import pathlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator, MutableMapping
from typing import TYPE_CHECKING, Any

import click

from bisync.errors import BisyncError

if TYPE_CHECKING:
    from bisync.config import Job
    from bisync.precheck import Check
    from bisync.runtime.life import Life


@click.command(name="run")
@click.argument("job", type=click.Path(path_type=pathlib.Path))
@click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="How the log on standard error is written: a line of text or a JSON document for each entry.",
)
def command(job: pathlib.Path, log_format: str) -> None:
    """Run JOB in the foreground: copy everything once, then keep both sites equal.

    A job that was begun goes on where it stopped. SIGTERM or Ctrl-C finishes the transaction under way and ends it.
    Exit status: 0 after such a stop, 1 for an error that waiting cannot heal, 2 for a bad job file, 3 when another
    engine has taken the job.
    """
    try:
        with _stoppable():
            with _undisturbed():
                from bisync.config import load_job
            loaded = load_job(job)
            with _undisturbed():
                _configure_log(log_format)
            _run(loaded)
    except* KeyboardInterrupt:  # before or after the time in which the engine itself listens
        pass


def _run(job: "Job") -> None:
    with _undisturbed():
        import trio

        from bisync.runtime.engine import Engine
    with contextlib.ExitStack() as stack:
        progress: "Callable[[Life], None]" = lambda life: None
        if sys.stderr.isatty():
            progress = stack.enter_context(CopyBar())
        engine = Engine(job, precheck=functools.partial(check_first, job), progress=progress)
        # Writes wait by the ten thousand and hold no cycles: looking for garbage there costs a quarter of the speed.
        gc.freeze()
        gc.set_threshold(50_000, 20, 50)
        trio.run(engine.run)


@contextlib.contextmanager
def _stoppable() -> Iterator[None]:
    """SIGTERM does what SIGINT does, also before the engine listens to them: Python itself would just end."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: object) -> None:
        if not callable(signal.getsignal(signal.SIGINT)):  # a shell has its background processes ignore it
            raise KeyboardInterrupt
        signal.raise_signal(signal.SIGINT)  # whose handler knows when trio can bear it

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Signals that would end us wait until the block is done. For imports: no KeyboardInterrupt must break them off.

    It may be lost there (Python ignores what is raised in a callback of its import locks), and where it is raised in
    exec() of a text, by which dataclasses are made, Python 3.11 ends as if killed by SIGINT although it was caught.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)  # the handlers are called here


# -- the precheck


class PrecheckFailed(BisyncError):
    """Checks that failed before the job could begin. `failed` holds a line for each, with its remedy."""

    def __init__(self, job: str, failed: list[str]) -> None:
        self.failed = tuple(failed)
        number = "1 check" if len(failed) == 1 else f"{len(failed)} checks"
        hint = "do as said, then start it again; `bisync precheck` shows all checks"
        super().__init__(f"job {job!r} cannot begin: {number} failed", hint=hint)

    def __str__(self) -> str:
        return "\n".join([f"{self.what}:", *(f"  - {line}" for line in self.failed), f"Next: {self.hint}."])


def check_first(job: "Job") -> None:
    """Run the precheck; it waits for both sites. Warnings go to the log. Raises PrecheckFailed with all that failed."""
    import structlog

    from bisync.precheck import precheck

    checks = precheck(job)
    log = structlog.get_logger()
    for check in checks:
        if check.result == "warning":
            log.warning(_line(check), kind="precheck", job=job.name)
    failed = [_line(check) for check in checks if check.result == "failed"]
    if failed:
        raise PrecheckFailed(job.name, failed)


def _line(check: "Check") -> str:
    place = f"{check.site}: " if check.site else ""
    remedy = f". Next: {check.remedy}" if check.remedy else ""
    return f"{place}{check.name}: {check.reason}{remedy}"


# -- the log


def _configure_log(log_format: str) -> None:
    """Send the log to standard error. It is looked up at each entry, because the progress bar puts itself before it."""
    import structlog

    render: structlog.types.Processor = structlog.processors.JSONRenderer() if log_format == "json" else render_text
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.format_exc_info,
            structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
            render,
        ],
        logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),
        cache_logger_on_first_use=False,
    )


def render_text(logger: object, method: str, entry: MutableMapping[str, Any]) -> str:
    """An entry as a line: time, level, what happened, then key=value. More lines of a text are indented."""
    time, level, text = (str(entry.pop(name, "")) for name in ("time", "level", "event"))
    trace = entry.pop("exception", "")
    fields = " ".join(f"{name}={_quoted(str(value))}" for name, value in entry.items())
    lines = [*text.splitlines(), *str(trace).splitlines()] or [""]
    return "\n    ".join([f"{time} {level:7} {lines[0]}{'  ' if fields else ''}{fields}", *lines[1:]])


def _quoted(value: str) -> str:
    plain = value.isprintable() and not set(value) & set(" =\"'") and value != ""
    return value if plain else repr(value)


# -- the progress bar


class CopyBar:
    """A progress bar on the terminal while the full copy is under way. Call it with the engine's life now and then."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._task: Any = None
        self._what = ""

    def __enter__(self) -> "CopyBar":
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def __call__(self, life: "Life") -> None:
        """Show how far the copy is; without a copy under way, nothing."""
        pair, copier, reconciler = life.pair, life.copier, life.reconciler
        if pair is not None and reconciler is not None and not pair.copying.done:
            self._show("reconciling", reconciler.done, reconciler.total, "")
        elif pair is not None and copier is not None and copier.scan is not None:
            self._show("checking the target", copier.scan.looked_at, copier.scan.total, "")
        elif pair is not None and copier is not None and copier.keys is not None and not pair.copying.finished:
            size = f"{copier.keys.bytes_done / 1e6:,.1f} MB"
            self._show("full copy", pair.copying.keys, copier.keys_total, size)
        else:
            self._close()

    def _show(self, what: str, done: int, total: int | None, size: str) -> None:
        if self._what != what:
            self._close()
        if self._bar is None:
            self._open(what)
        speed = self._bar.tasks[0].speed
        rate = f"{speed:,.0f} keys/s" if speed else ""
        total = max(done, total) if total is not None else None
        self._bar.update(self._task, completed=done, total=total, size=size, rate=rate, refresh=True)

    def _open(self, what: str) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        words = (TextColumn("keys"), TextColumn("{task.fields[size]}"), TextColumn("{task.fields[rate]}"))
        columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), *words, TimeRemainingColumn())
        # Drawn when the engine calls, and not by a thread of its own.
        self._bar = Progress(*columns, console=Console(stderr=True), auto_refresh=False, transient=True)
        self._task, self._what = self._bar.add_task(what, total=None, size="", rate=""), what
        self._bar.start()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

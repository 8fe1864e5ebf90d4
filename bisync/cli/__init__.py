"""The command line: one file per command, imported only when that command is asked for.

Here is what all commands share: how each kind of error ends the program.

| what | exit status |
|---|---|
| `BisyncError` | its `exit_code`, its text on standard error, no traceback |
| wrong use, as click finds it | 2 |
| Ctrl-C in a command that does not handle it | 130, as a shell does for SIGINT |
| the reader of our output went away (`bisync ... | head`) | 1, without a word |
| our output cannot be written (a full disk) | 1, with one error |
| anything else: a bug | 70 (`EX_SOFTWARE` of sysexits.h), with the traceback |
"""

import contextlib
import functools
import importlib
import importlib.util
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from typing import Any, TextIO, cast

import click

from bisync import __version__
from bisync.errors import BisyncError, said

COMMANDS = ("demo", "run", "status", "wait", "conflicts", "limits", "precheck", "verify", "reconcile", "reset")
"""Every command, in the order of `--help`. The module bisync.cli.<name> holds the click command as `command`."""

EXIT_BROKEN_PIPE, EXIT_BUG, EXIT_INTERRUPT = 1, 70, 130

_ACCOUNT_IN_URL = re.compile(r"://.*@")


class CommandLine(click.Group):
    """The group of all commands. As a program it turns every error into a text and an exit status."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The commands whose module exists."""
        return [name for name in COMMANDS if importlib.util.find_spec(f"{__name__}.{name}")]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command; None where there is none of that name."""
        if cmd_name not in self.list_commands(ctx):
            return None
        command: click.Command = importlib.import_module(f"{__name__}.{cmd_name}").command
        return command

    def main(self, *args: Any, standalone_mode: bool = True, **options: Any) -> Any:
        """Run the command line, with click's parameters. Ends in SystemExit unless `standalone_mode` is false."""
        if len(args) < 2:
            options.setdefault("prog_name", "bisync")  # or `python -m bisync` would call itself so
        run = functools.partial(super().main, *args, standalone_mode=False, **options)
        return sys.exit(_status_of(run)) if standalone_mode else run()


@click.group(name="bisync", cls=CommandLine, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="bisync")
def main() -> None:
    """Keep two Redis deployments equal while clients write to both."""


class OutputError(BisyncError):
    """What the program prints cannot be written where it was sent."""


class _Guarded:
    """Standard output or standard error, whose errors become others or none."""

    def __init__(self, stream: TextIO, guard: Callable[[], contextlib.AbstractContextManager[None]]) -> None:
        self._stream, self._guard = stream, guard

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with self._guard():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with self._guard():
            self._stream.flush()


@contextlib.contextmanager
def _named_errors() -> Iterator[None]:
    """Of standard output: that it is full is an error, and which file it was must be said."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as e:
        hint = "see where the output is sent, and make room there"
        raise OutputError("standard output cannot be written", why=said(e), hint=hint) from None


def _no_errors() -> contextlib.AbstractContextManager[None]:
    """Of standard error: an engine whose log cannot be written goes on, as its store has the events too."""
    return contextlib.suppress(OSError)


def _status_of(run: Callable[[], Any]) -> int:
    """Run it, say on standard error what went wrong, and give the exit status."""
    out, err = sys.stdout, sys.stderr
    if out is not None:  # None: closed by the shell (`>&-`), as nobody wants to see anything
        sys.stdout = cast(TextIO, _Guarded(out, _named_errors))
    if err is not None:
        sys.stderr = cast(TextIO, _Guarded(err, _no_errors))
    try:
        return _caught(run)
    finally:
        sys.stdout, sys.stderr = out, err
        for stream in filter(None, (out, err)):
            try:
                stream.flush()
            except OSError:
                _drop(stream)


def _caught(run: Callable[[], Any]) -> int:
    try:
        status = run()
        if sys.stdout is not None:
            sys.stdout.flush()  # here, where an error can still be caught
        return status if isinstance(status, int) else 0
    except click.ClickException as e:
        e.show()
        return e.exit_code
    except click.Abort as e:
        if isinstance(e.__cause__ or e.__context__, KeyboardInterrupt):
            return EXIT_INTERRUPT
        click.echo("Aborted.", err=True)
        return 1
    except BrokenPipeError:
        return EXIT_BROKEN_PIPE
    except BaseException as e:
        return _failure(e)


def _drop(stream: TextIO) -> None:
    """What Python would flush at its end must not fail a second time."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, stream.fileno())
    os.close(null)


def _failure(error: BaseException) -> int:
    """Say what went wrong. trio wraps errors in groups: a group of nothing but ours is ours."""
    leaves = list(_leaves(error))
    if any(isinstance(e, SystemExit) for e in leaves):
        raise error
    if any(isinstance(e, KeyboardInterrupt) for e in leaves):
        return EXIT_INTERRUPT
    known = [e for e in leaves if isinstance(e, BisyncError)]
    if len(known) == len(leaves):
        for text in dict.fromkeys(map(str, known)):
            click.echo(f"bisync: {text}", err=True)
        return max(e.exit_code for e in known)
    click.echo(f"bisync: this is a bug in bisync {__version__}; please report it with the lines below.", err=True)
    # Never with local variables, which hold passwords; and of a line with a URL, nothing that may be an account.
    click.echo(_ACCOUNT_IN_URL.sub("://***@", "".join(traceback.format_exception(error))), err=True, nl=False)
    return EXIT_BUG


def _leaves(error: BaseException) -> Iterator[BaseException]:
    """The exceptions in a group, or the one."""
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error

"""The command line: one file per command, imported only when that command is asked for.

Here is what all commands share: how each kind of error ends the program.

| what | exit status |
|---|---|
| `BisyncError` | its `exit_code`, its text on standard error, no traceback |
| wrong use, as click finds it | 2 |
| Ctrl-C in a command that does not handle it | 130, as a shell does for SIGINT |
| the reader of our output went away (`bisync ... | head`) | 1, without a word |
| anything else: a bug | 70 (`EX_SOFTWARE` of sysexits.h), with the traceback |
"""

import functools
import importlib
import importlib.util
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import click

from bisync import __version__
from bisync.errors import BisyncError

COMMANDS = ("demo", "run", "status", "wait", "conflicts", "precheck", "verify", "reset")
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


def _status_of(run: Callable[[], Any]) -> int:
    """Run it, say on standard error what went wrong, and give the exit status."""
    try:
        status = run()
        sys.stdout.flush()  # here, where a broken pipe can still be caught
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
        # What Python would flush at its end must not fail a second time.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_BROKEN_PIPE
    except BaseException as e:
        return _failure(e)


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

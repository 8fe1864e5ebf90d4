"""`bisync verify JOB`: are the two sites equal? The first differences, and a verdict."""

import contextlib
import json
import pathlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from bisync.verify import Progress, Verdict

SHOWN = 20  # differences in the table; --json has all that the verdict lists
PIPE_WIDTH = 1000  # columns where the output is no terminal: a line for each difference, never wrapped


@click.command(name="verify")
@click.argument("job", type=click.Path(path_type=pathlib.Path))
@click.option("--json", "as_json", is_flag=True, help="One JSON document on standard output.")
@click.option(
    "--tolerance-ms",
    type=click.IntRange(min=0),
    default=2000,
    show_default=True,
    help="How far apart the expiries of a key may be.",
)
@click.pass_context
def command(ctx: click.Context, job: pathlib.Path, as_json: bool, tolerance_ms: int) -> None:
    """Compare the two sites of JOB key by key: all databases and types in its scope, and expiries.

    Differences are looked at again, so that writes under way do not count. Exit status: 0 equal, 1 not, 2 for a bad
    job file.
    """
    from bisync.config import load_job
    from bisync.verify import verify

    loaded = load_job(job)
    with progress_bar() as progress:
        verdict = verify(loaded, tolerance_ms=tolerance_ms, progress=progress)
    if as_json:
        click.echo(json.dumps(as_document(verdict), indent=2))
    else:
        _print(verdict, loaded.source.name, loaded.target.name)
    ctx.exit(0 if verdict.equal else 1)


def as_document(verdict: "Verdict") -> dict[str, Any]:
    r"""What --json prints. Keys are text, with \xNN for what is no UTF-8."""
    from bisync.text import readable

    return {
        "equal": verdict.equal,
        "compared": verdict.compared,
        "different": verdict.different,
        "differences": [
            {"database": d.database, "key": readable(d.key), "kind": d.kind, "source": d.source, "target": d.target}
            for d in verdict.differences
        ],
    }


@contextlib.contextmanager
def progress_bar() -> "Iterator[Progress | None]":
    """A progress bar on standard error, where that is a terminal."""
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        yield None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("comparing"), BarColumn(), MofNCompleteColumn(), TextColumn("keys"), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("comparing", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _print(verdict: "Verdict", source: str, target: str) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from bisync.text import readable

    console = Console()
    if not console.is_terminal:
        console.width = PIPE_WIDTH
    if verdict.differences:
        table = Table(box=None, padding=(0, 2, 0, 0))
        for title in ("database", "key", "kind", f"at {source}", f"at {target}"):
            table.add_column(Text(title), overflow="fold")
        for d in verdict.differences[:SHOWN]:
            table.add_row(*(Text(w) for w in (str(d.database), readable(d.key), d.kind, d.source, d.target)))
        console.print(table)
    if verdict.different > SHOWN:
        console.print(Text(f"... and {verdict.different - SHOWN} more."))
    if verdict.equal:
        console.print(Text(f"{source} and {target} are equal: {verdict.compared} keys compared."))
    else:
        words = f"{verdict.different} of {verdict.compared} keys are different at {source} and {target}."
        console.print(Text(words, style="bold red"))

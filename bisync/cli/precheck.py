"""`bisync precheck JOB`: every check with its result, its reason and its remedy."""

import json
import pathlib
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from bisync.precheck import Check

STYLES = {"ok": "green", "warning": "yellow", "failed": "bold red", "not-checked": "dim"}
PIPE_WIDTH = 1000  # columns where the output is no terminal: a line for each check, never wrapped


@click.command(name="precheck")
@click.argument("job", type=click.Path(path_type=pathlib.Path))
@click.option("--json", "as_json", is_flag=True, help="One JSON document on standard output.")
@click.pass_context
def command(ctx: click.Context, job: pathlib.Path, as_json: bool) -> None:
    """Check everything that JOB needs of its two sites. Changes nothing there.

    Exit status: 0 if no check failed (warnings allowed), 1 if one did, 2 for a bad job file.
    """
    from bisync.config import load_job
    from bisync.precheck import precheck

    checks = precheck(load_job(job))
    failed = [c for c in checks if c.result == "failed"]
    if as_json:
        import attrs

        click.echo(json.dumps({"ok": not failed, "checks": [attrs.asdict(c) for c in checks]}, indent=2))
    else:
        _print(checks)
    ctx.exit(1 if failed else 0)


def _print(checks: "list[Check]") -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    if not console.is_terminal:
        console.width = PIPE_WIDTH
    table = Table(box=None, padding=(0, 2, 0, 0))
    for title in ("result", "check", "site", "reason", "what to do"):
        table.add_column(title, overflow="fold")
    for c in checks:
        # As Text, or rich would take the [names] of the job file's tables for its own marks.
        words = [Text(c.result, STYLES[c.result]), *(Text(w) for w in (c.name, c.site or "", c.reason, c.remedy))]
        table.add_row(*words)
    console.print(table)
    counted = [f"{sum(c.result == r for c in checks)} {r}" for r in STYLES if any(c.result == r for c in checks)]
    console.print(Text(", ".join(counted) + "."))

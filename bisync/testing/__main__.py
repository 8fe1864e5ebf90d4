"""`python -m bisync.testing EAST WEST`: histories on two servers of yours, with faults, and a verdict.

The servers must be empty and nobody else's; see `docs/testing.md`.
"""

import json
import pathlib
import shlex
import sys
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

import attrs
import click
from rich.console import Console

from bisync.errors import BisyncError
from bisync.testing.faults import ANYWHERE, FaultPlan
from bisync.testing.real_sites import NAMES
from bisync.testing.runner import POLICIES, Result, Runner, Trial
from bisync.testing.workloads import WORKLOADS

EXIT_FAILED, EXIT_USE = 1, 2


@click.command(name="python -m bisync.testing")
@click.argument("east")
@click.argument("west")
@click.option("--histories", type=click.IntRange(1), default=20, show_default=True, help="How many to run.")
@click.option(
    "--seconds", type=click.FloatRange(0.1, 3600), default=2.0, show_default=True, help="Of writing, in each."
)
@click.option(
    "--seed", type=click.IntRange(0), default=1, show_default=True, help="Of the first; the next have the next."
)
@click.option("--workload", type=click.Choice(list(WORKLOADS)), default="random", show_default=True, help="Who writes.")
@click.option("--policy", type=click.Choice(POLICIES), help="Which writes win. Without it: each in turn.")
@click.option("--faults", type=click.IntRange(0), help="Of all kinds, in each. Without it: up to three.")
@click.option("--kills", type=click.IntRange(0), help="Only kills of the engine, and so many in each.")
@click.option("--plan", help='These faults and no others, as a result shows them: "250 kill 60; 300 cut east".')
@click.option("--wipe", is_flag=True, help="Delete all that the servers hold. Without it they must be empty.")
@click.option("--keep", type=click.Path(path_type=pathlib.Path), help="A folder for what failed. Else a temporary one.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on standard output.")
def command(east: str, west: str, histories: int, as_json: bool, keep: pathlib.Path | None, **options: Any) -> None:
    """Run histories on two servers: clients write to both, things go wrong, and in the end both must hold the same.

    EAST and WEST are the URLs of two servers that belong to this test alone: redis://user:password@host:port.
    Everything they hold is deleted before each history.

    Exit status: 0 all is well, 1 a history failed, 2 wrong use.
    """
    console = Console(stderr=True)
    try:
        trials = list(_trials(histories, **{k: v for k, v in options.items() if k != "wipe"}))
        folder = keep or pathlib.Path(tempfile.mkdtemp(prefix="bisync-testing-"))
        runner = Runner(east, west, folder, wipe=options["wipe"])
        results = _run(runner, trials, console)
    except BisyncError as e:
        click.echo(f"bisync.testing: {e}", err=True)
        sys.exit(EXIT_USE)
    failed = [result for result in results if not result.ok]
    if not failed and keep is None:
        folder.rmdir()
    if as_json:
        click.echo(json.dumps({"ok": not failed, "results": [r.as_document() for r in results]}, indent=2))
    _print_verdict(console, results, failed)
    sys.exit(EXIT_FAILED if failed else 0)


def _trials(
    histories: int,
    *,
    seconds: float,
    seed: int,
    workload: str,
    policy: str | None,
    faults: int | None,
    kills: int | None,
    plan: str | None,
) -> Iterator[Trial]:
    if sum(choice is not None for choice in (faults, kills, plan)) > 1:
        raise BisyncError("--faults, --kills and --plan each say which faults there are", hint="give one of them")
    kinds = ANYWHERE if kills is None else ("kill",)
    number = faults if kills is None else kills
    for n in range(seed, seed + histories):
        trial = Trial.draw(n, workload=workload, policy=policy, seconds=seconds, faults=number, kinds=kinds)
        yield trial if plan is None else attrs.evolve(trial, faults=FaultPlan.parse(plan))


def _run(runner: Runner, trials: Sequence[Trial], console: Console) -> list[Result]:
    results = []
    for n, trial in enumerate(trials, 1):
        with console.status(f"{n} of {len(trials)}: {trial}"):
            result = runner.run(trial)
        results.append(result)
        mark = "[green]equal[/]" if result.ok else "[bold red]FAILED[/]"
        numbers = f"{sum(result.commands.values()):,} commands, {result.conflicts} conflicts, {result.seconds:.1f} s"
        console.print(f"{mark} {n} of {len(trials)}: {numbers}; {result.trial}", highlight=False)
        if not result.ok:
            console.print(result.describe(), markup=False, highlight=False)
            console.print(f"to repeat: {shlex.join(_again(trial))}", markup=False, highlight=False)
    return results


def _again(trial: Trial) -> list[str]:
    """The command that runs this trial again."""
    words = ["python", "-m", "bisync.testing", *(name.upper() for name in NAMES), "--wipe", "--histories", "1"]
    words += ["--seed", str(trial.seed), "--seconds", f"{trial.seconds:g}", "--workload", trial.workload]
    return [*words, "--policy", trial.policy, "--plan", str(trial.faults)]


def _print_verdict(console: Console, results: Sequence[Result], failed: Sequence[Result]) -> None:
    commands = sum(sum(result.commands.values()) for result in results)
    faults, conflicts = (sum(getattr(result, name) for result in results) for name in ("faults", "conflicts"))
    numbers = f"{commands:,} commands, {conflicts:,} conflicts, {faults} faults"
    if failed:
        seeds = ", ".join(str(result.trial.seed) for result in failed)
        console.print(f"{len(failed)} of {len(results)} histories failed ({numbers}); seeds: {seeds}", style="bold red")
    else:
        console.print(f"All {len(results)} histories ended equal: {numbers}.", style="bold", highlight=False)


if __name__ == "__main__":
    command()

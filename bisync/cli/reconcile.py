"""`bisync reconcile JOB --dry-run`: what would be done with two sites that both hold data."""

import json
import pathlib
from typing import TYPE_CHECKING, Any

import click

from bisync.cli.verify import PIPE_WIDTH, progress_bar

if TYPE_CHECKING:
    from bisync.config import Job
    from bisync.reconcile import Plan

SAMPLES_MAX = 1_000


@click.command(name="reconcile")
@click.argument("job", type=click.Path(path_type=pathlib.Path))
@click.option("--dry-run", is_flag=True, help="Say what would be done, and change nothing.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on standard output.")
@click.option(
    "--samples",
    type=click.IntRange(0, SAMPLES_MAX),
    default=10,
    show_default=True,
    help="How many keys of each kind are shown.",
)
def command(job: pathlib.Path, dry_run: bool, as_json: bool, samples: int) -> None:
    """Compare the two sites of JOB, and say what reconciling them would do: works before the job has begun.

    A key that only one site holds is copied to the other one. Where both hold one and they differ, the policy of the
    job file decides, and the value that is replaced goes into the log of conflicts. `bisync run` does it, where the job
    file says target_not_empty = "reconcile". Exit status: 0 done, 1 a site cannot be read, 2 wrong use.
    """
    if not dry_run:
        raise click.UsageError(
            "this command only shows the plan: say --dry-run. To carry it out, set target_not_empty = "
            '"reconcile" under [full_copy] in the job file, and let `bisync run` begin the job'
        )
    from bisync.config import load_job
    from bisync.reconcile import plan

    loaded = load_job(job)
    if loaded.topology == "one-way":
        raise click.UsageError(
            'the job is "one-way": its second site is made equal to the first, and nothing there is kept. '
            "`bisync verify` shows how they differ"
        )
    with progress_bar() as progress:
        found = plan(loaded, samples=samples, progress=progress)
    if as_json:
        click.echo(json.dumps(as_document(loaded, found), indent=2))
    else:
        _print(loaded, found)


def as_document(job: "Job", plan: "Plan") -> dict[str, Any]:
    r"""What --json prints. Keys are text, with \xNN for what is no UTF-8."""
    from bisync.text import readable

    return {
        "job": job.name,
        "first_run": job.full_copy.target_not_empty,
        "compared": plan.compared,
        **{
            kind.replace("-", "_"): {
                "count": plan.counts[kind],
                "samples": [
                    {
                        **{"database": p.difference.database, "key": readable(p.difference.key)},
                        **{"kind": p.difference.kind, "size": p.difference.size},
                        **{"source": p.difference.source, "target": p.difference.target},
                        **{"winner": p.winner, "why": p.why},
                    }
                    for p in some
                ],
            }
            for kind, some in plan.samples.items()
        },
        "winners": plan.winners,
    }


def _print(job: "Job", plan: "Plan") -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from bisync.text import readable

    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = PIPE_WIDTH
    source, target = job.source.name, job.target.name
    winners = ", ".join(f"{n:,} of {site}" for site, n in plan.winners.items() if n)
    heads = {
        "only-source": f"only at {source}: {plan.counts['only-source']:,}, to be copied to {target}",
        "only-target": f"only at {target}: {plan.counts['only-target']:,}, to be copied to {source}",
        "different": f"different: {plan.counts['different']:,}" + (f"; would stand: {winners}" if winners else ""),
    }
    console.print(Text(f"{plan.compared:,} keys compared, nothing changed."))
    for kind, head in heads.items():
        console.print(Text(head, "bold"))
        some = plan.samples[kind]
        if not some:
            continue
        table = Table(box=None, padding=(0, 2, 0, 2))
        for title in ("database", "key", "bytes", f"at {source}", f"at {target}", "stands", "why"):
            table.add_column(Text(title), overflow="fold")
        for p in some:
            d = p.difference
            words = (str(d.database), readable(d.key), f"{d.size:,}", d.source, d.target, p.winner, p.why)
            table.add_row(*map(Text, words))
        console.print(table)
        if plan.counts[kind] > len(some):
            console.print(Text(f"  ... and {plan.counts[kind] - len(some):,} more"))
    if plan.counts["different"] > job.conflicts.keep_entries:
        text = f"Warning: the log keeps {job.conflicts.keep_entries:,} conflicts, and more values would be replaced."
        console.print(Text(f"{text} Raise keep_entries (and keep_bytes) under [conflicts] first.", "yellow"))
    if job.full_copy.target_not_empty != "reconcile":
        text = f'Note: the job file says target_not_empty = "{job.full_copy.target_not_empty}", so `bisync run` would'
        console.print(Text(f'{text} not do this. Say "reconcile" there.'))

"""`bisync limits JOB`: shows how fast a job may write, and changes it while the job runs."""

import json
import pathlib
import time
from collections.abc import Iterator, Mapping
from typing import Any

import click

OPTIONS = {  # of the command -> the limit
    "copy_commands": "copy_commands_per_s",
    "copy_bytes": "copy_bytes_per_s",
    "follow_commands": "follow_commands_per_s",
    "follow_bytes": "follow_bytes_per_s",
    "copy_yields": "copy_yields",
}
WORDS = {
    "copy_commands_per_s": "full copy, commands/s",
    "copy_bytes_per_s": "full copy, bytes/s",
    "follow_commands_per_s": "following, commands/s",
    "follow_bytes_per_s": "following, bytes/s",
    "copy_yields": "the copy yields",
}


@click.command(name="limits")
@click.argument("job", type=click.Path(path_type=pathlib.Path))
@click.option("--copy-commands", type=int, metavar="N", help="Most commands/s of the full copy; 0: no cap.")
@click.option("--copy-bytes", type=int, metavar="N", help="Most bytes/s of the full copy; 0: no cap.")
@click.option("--follow-commands", type=int, metavar="N", help="Most commands/s of a channel that follows; 0: no cap.")
@click.option("--follow-bytes", type=int, metavar="N", help="Most bytes/s of a channel that follows; 0: no cap.")
@click.option("--copy-yields/--no-copy-yields", default=None, help="Slow the copy down where clients would feel it.")
@click.option("--reset", is_flag=True, help="Take all changes back: the job file's limits count again.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on standard output.")
def command(job: pathlib.Path, reset: bool, as_json: bool, **options: int | bool | None) -> None:
    """Show the caps of JOB and what it sends at present, or change them.

    An engine that runs takes a change within a second, and one that is started later has it too. What is not named
    stays as it is; with --reset what is named is set and all else is as the job file says. Asks no site.
    Exit status: 0 done, 1 where the store cannot be used, 2 for wrong use or a bad job file.
    """
    from bisync.config import load_job
    from bisync.status import read_status

    changes = _changes(options)
    loaded = load_job(job, connects=False)
    if changes or reset:
        changed = _change(loaded, changes, reset)
    else:
        changed = _changed(loaded)
    document = _document(loaded, changed, read_status(loaded, int(time.time() * 1000)))
    if as_json:
        click.echo(json.dumps(document, indent=2))
        return
    for line in _lines(document):
        click.echo(line)
    if changes or reset:
        runs = document["engine_runs"]
        click.echo("The engine takes this within a second." if runs else "No engine is running; the next one has this.")


def _changes(options: Mapping[str, int | bool | None]) -> dict[str, int | None]:
    """The limits that are named, by name. Raises UsageError with all that cannot be."""
    from bisync.limits import checked

    changes: dict[str, int | None] = {}
    wrong = []
    for option, name in OPTIONS.items():
        value = options[option]
        if value is None:
            continue
        try:
            changes[name] = int(checked(name, value))
        except ValueError as e:
            wrong.append(f"--{option.replace('_', '-')} {value}: {e}")
    if wrong:
        raise click.UsageError("; ".join(wrong))
    return changes


def _change(job: Any, changes: dict[str, int | None], reset: bool) -> dict[str, int]:
    """Save the changes. All that is changed now."""
    from bisync.limits import NAMES
    from bisync.runtime.store import Store

    with Store.open(job.store) as store:
        with store.transaction():
            values = {**dict.fromkeys(NAMES), **changes} if reset else changes
            store.save_settings(job.name, values, int(time.time() * 1000))
        return store.settings(job.name)


def _changed(job: Any) -> dict[str, int]:
    """What is changed; nothing where there is no store yet."""
    from bisync.runtime.store import Store

    if not job.store.exists() or (job.store.is_file() and not job.store.stat().st_size):
        return {}
    with Store.open(job.store, create=False) as store:
        return store.settings(job.name)


def _document(job: Any, changed: Mapping[str, int], status: Mapping[str, Any]) -> dict[str, Any]:
    """What --json prints: the limits, where each comes from, and what the engine says of each channel."""
    from bisync.limits import NAMES, in_force

    limits = in_force(job.limits, changed)
    runs = status["engine"]["pid"] is not None
    return {
        "job": job.name,
        "limits": {
            name: {"value": getattr(limits, name), "from": "store" if name in changed else "job file"} for name in NAMES
        },
        "engine_runs": runs,
        "channels": {name: channel["limits"] for name, channel in status["channels"].items()} if runs else {},
    }


def _lines(document: Mapping[str, Any]) -> Iterator[str]:
    """For people."""
    for name, limit in document["limits"].items():
        value = limit["value"]
        shown = ("yes" if value else "no") if isinstance(value, bool) else f"{value:,}" if value else "no cap"
        yield f"{WORDS[name] + ':':24}{shown}{'  (set by bisync limits)' if limit['from'] == 'store' else ''}"
    for name, channel in document["channels"].items():
        caps = [f"{channel[of]:,} {unit}" for of, unit in _UNITS.items() if channel[of]]
        sent = f"sends {channel['sent_commands_per_s']:,.0f} commands/s, {channel['sent_bytes_per_s']:,.0f} bytes/s"
        slow = f"; it yields: {channel['share']:.0%} of its usual pace" if channel["share"] < 1 else ""
        yield f"{name}: {sent}; at most {' and '.join(caps) or 'what it can'}{slow}"


_UNITS = {"commands_per_s": "commands/s", "bytes_per_s": "bytes/s"}

"""`bisync status JOB`: what the job and its channels are doing."""

import json
import pathlib
import time
from collections.abc import Iterator, Mapping
from typing import Any

import click

PIPE_WIDTH = 1000  # columns where the output is no terminal: lines are never wrapped there
STYLES = {"synchronizing": "green", "prechecking": "cyan", "initializing": "cyan", "suspended": "yellow"}
FAILED_STYLE = "bold red"  # of every state with "failed" in its name


@click.command(name="status")
@click.argument("job", type=click.Path(path_type=pathlib.Path))
@click.option("--json", "as_json", is_flag=True, help="One JSON document on standard output.")
def command(job: pathlib.Path, as_json: bool) -> None:
    """Show the state of JOB and of its channels. Reads the job's store only; asks no site.

    Exit status: 0 whatever the state is, 1 where the store cannot be read, 2 for a bad job file.
    """
    from bisync.config import load_job
    from bisync.status import read_status

    document = read_status(load_job(job, connects=False), int(time.time() * 1000))
    if as_json:
        click.echo(json.dumps(document, indent=2))
    else:
        _print(document)


def _print(document: Mapping[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = PIPE_WIDTH
    # As Text, or rich would take [names] in a reason for its own marks.
    head = Text(f"{document['job']}  ").append(document["state"], _style(document["state"]))
    console.print(head.append(f"  {document['topology']}  {_engine(document['engine'])}"))
    if document["reason"]:
        console.print(Text(document["reason"], _style(document["state"])))
    table = Table(box=None, padding=(0, 2, 0, 0))
    for title in ("channel", "state", "lag", "not applied yet", "speed", "applied", "full copy"):
        table.add_column(title)
    for name, channel in document["channels"].items():
        words = (name, channel["state"], *_figures(channel))
        table.add_row(*(Text(w, _style(w) if n == 1 else "") for n, w in enumerate(words)))
    console.print(table)
    for name, channel in document["channels"].items():
        for text in _limits(channel["limits"]):
            console.print(Text(f"{name}: {text}", "yellow"))
    for line, style in _conflicts(document["conflicts"]):
        console.print(Text(line, style))
    for event in document["events"]:
        console.print(Text(f"{event['time']}  {event['level']:7}  {event['kind']}: {event['text']}"))


def _conflicts(conflicts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Lines about the conflicts, each with its style: how many, those that cannot be settled, and what to do."""
    from bisync.status import KINDS, unit_name

    kinds = [f"{n:,} about {KINDS.get(kind, kind)}" for kind, n in conflicts["by_kind"].items() if n]
    known = f" ({', '.join(kinds)})" if kinds else ""
    yield f"conflicts: {conflicts['total']:,} in all{known}, {conflicts['open']:,} open", ""
    total, shown = conflicts["unsettled_total"], conflicts["unsettled"]
    if total:
        yield f"not settled: {total:,}; both sites may hold different values there", "yellow"
        for unit in shown:
            element = (unit["element"]["type"], unit["element"]["name"]) if unit["element"] else None
            name = unit_name(unit["database"], unit["key"], element)
            yield f"  {name}, since {unit['since']}: {unit['why']}", ""
        if total > len(shown):
            yield f"  and {total - len(shown):,} more", ""
        yield "  next: make possible what the server refused; bisync tries again by itself every few seconds", ""
    if conflicts["unrecorded"] and conflicts["store_failing"]:
        yield f"not recorded: {conflicts['unrecorded']:,}; {conflicts['store_failing']}", "yellow"
        yield "  next: make room for the store; until then the journals grow, and reading stops when they are full", ""


def _limits(limits: Mapping[str, Any]) -> Iterator[str]:
    """What holds a channel back, in words."""
    caps = [(limits["commands_per_s"], "commands/s"), (limits["bytes_per_s"], "bytes/s")]
    if shown := " and ".join(f"{n:,} {unit}" for n, unit in caps if n):
        yield f"capped at {shown} (bisync limits)"
    if limits["share"] < 1:
        yield f"the copy yields to the target's clients: {limits['share']:.0%} of its usual pace"


def _style(state: str) -> str:
    return FAILED_STYLE if "failed" in state else STYLES.get(state, "")


def _engine(engine: Mapping[str, Any]) -> str:
    if engine["epoch"] is None:
        return "no engine yet"
    if engine["pid"] is None:
        return f"no engine is running (the last one: epoch {engine['epoch']}, since {engine['since']})"
    return f"engine {engine['pid']} (epoch {engine['epoch']}) since {engine['since']}"


def _figures(channel: Mapping[str, Any]) -> tuple[str, ...]:
    """lag, bytes behind, speed, applied commands and the full copy, as words; "-" for what is not known."""
    lag, behind = channel["lag_ms"], channel["lag_bytes"]
    return (
        "-" if lag is None else f"{lag:,.0f} ms",
        "-" if behind is None else _bytes(behind),
        f"{channel['ops_per_s']:,.0f} ops/s, {_bytes(channel['bytes_per_s'])}/s",
        f"{channel['applied_ops']:,} ops",
        _copied(channel["full_copy"]),
    )


def _copied(copy: Mapping[str, Any]) -> str:
    done, total = copy["keys_done"], copy["keys_total"]
    if not done and total is None:
        return "-"
    copied = f"{done:,}{'' if total is None else f' of {max(done, total):,}'} keys, {_bytes(copy['bytes_done'])}"
    checked, there = copy["target_keys_checked"], copy["target_keys_total"]
    return copied if there is None else f"{copied}; {checked:,} of {max(checked, there):,} keys of the target checked"


def _bytes(number: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if number < 1000:
            break
        number /= 1000
    else:
        unit = "TB"
    return f"{number:,.0f} {unit}" if unit == "bytes" else f"{number:,.1f} {unit}"

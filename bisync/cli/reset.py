"""`bisync reset JOB`: forgets a job, so that its next run begins with a new full copy."""

import json
import pathlib
import sys
import time
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from bisync.config import Job
    from bisync.runtime.control import Control
    from bisync.runtime.store import Store

JOURNAL_FILES = (
    "*.journal",
    "*.times*",
    "snapshot-*.rdb",
    "snapshot.json*",
)  # what an engine keeps in the job's journal folder


@click.command(name="reset")
@click.argument("job", type=click.Path(path_type=pathlib.Path))
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on standard output.")
def command(job: pathlib.Path, yes: bool, as_json: bool) -> None:
    """Forget how far JOB is. No data of yours is touched; the next run begins with a new full copy.

    Deletes bisync's own keys of this job at both sites (its tags, heartbeat and notes), the checkpoints in the store
    and the journal. An engine of the job must not be running: stop it first, also where it runs on another machine.
    Exit status: 0 done, 1 not done, 2 for wrong use or a bad job file.
    """
    from bisync.config import load_job

    loaded = load_job(job)
    refuse_while_running(loaded)
    if not yes:
        _confirm(loaded)
        refuse_while_running(loaded)  # the answer may have taken its time
    deleted, files = reset(loaded)
    if as_json:
        click.echo(json.dumps({"job": loaded.name, "keys_deleted": deleted, "journal_files": files}, indent=2))
        return
    for site, number in deleted.items():
        click.echo(f"{site}: {number} of bisync's own keys deleted.")
    click.echo(f"{files} journal files removed, checkpoints forgotten. The next `bisync run` copies everything anew.")


def _confirm(job: "Job") -> None:
    """Say what will happen and ask. Raises click's Abort for a no, and UsageError where nobody can answer."""
    click.echo(
        f"This forgets how far job {job.name!r} is: bisync's own keys of it at {job.source.name} and {job.target.name}"
        " (bisync:*), its checkpoints and its journal. No data of yours is touched. The next run begins with a new"
        " full copy.",
        err=True,
    )
    if not sys.stdin.isatty():
        raise click.UsageError("there is no terminal to ask on; say --yes if that is what you want")
    click.confirm("Go on?", abort=True, err=True)


def refuse_while_running(job: "Job") -> None:
    """Raises BisyncError while an engine works on the job."""
    from bisync.errors import BisyncError
    from bisync.status import read_report

    report = read_report(job, int(time.time() * 1000))
    if report is not None:
        raise BisyncError(
            f"job {job.name!r} cannot be reset", why=f"an engine is running it (pid {report.pid})", hint="stop it first"
        )


def reset(job: "Job") -> tuple[dict[str, int], int]:
    """Forget the job. The number of keys deleted at each site, and of journal files removed.

    Nothing is changed where a site cannot be reached or the store cannot be used: raises SiteError or StoreError.
    """
    from bisync.core.tag import beat_key, open_key, tag_key
    from bisync.runtime.control import Control
    from bisync.runtime.store import Store

    keys = [tag_key(job.name, "forward"), tag_key(job.name, "reverse"), beat_key(job.name), open_key(job.name)]
    with Control(job.source) as source, Control(job.target) as target, Store.open(job.store) as store:
        found = [(control, _held(job, control, keys)) for control in (source, target)]
        # The store forgets only if all goes well: an engine that finds no tags goes on from the store's copies, so a
        # reset that broke off has changed nothing.
        with store.transaction():
            _forget(job, store)
            for control, held in found:
                if held:
                    control.call("DEL", *held)
        files = _remove_journal(job.journal_folder)
    return {control.site.name: len(held) for control, held in found}, files


def _held(job: "Job", control: "Control", keys: list[bytes]) -> list[bytes]:
    """Which of the keys the site holds."""
    from bisync.runtime.control import Refusal

    commands = [("EXISTS", key) for key in keys]
    if job.topology == "one-way" and control.site.name == job.source.name:
        # The account may lack all rights on bisync's keys here, and then none was ever written.
        replies = control.batch(commands)
        if all(isinstance(reply, Refusal) and reply.denied for reply in replies):
            return []
    return [key for key, there in zip(keys, control.call_all(commands)) if there]


def _forget(job: "Job", store: "Store") -> None:
    from bisync.core.states import NOT_STARTED

    now_ms = int(time.time() * 1000)
    store.forget_job(job.name)
    store.enter_state(job.name, NOT_STARTED, "the job was reset", now_ms)
    store.add_event(job.name, now_ms, "info", "reset", "the job was reset; its next run begins with a new full copy")


def _remove_journal(folder: pathlib.Path) -> int:
    """Remove the engine's files, and the folder if nothing else is in it. The number of files."""
    if not folder.is_dir():
        return 0
    files = [path for pattern in JOURNAL_FILES for path in folder.glob(pattern)]
    for path in files:
        path.unlink(missing_ok=True)
    if not any(folder.iterdir()):
        folder.rmdir()
    return len(files)

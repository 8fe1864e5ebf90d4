"""`bisync wait JOB`: returns when the job is in a state, or when all that was written before is applied.

An engine that is only starting is waited for too. Nothing here talks to the engine: it says all that is needed in the
store, and the sites say how far their streams are. Before its word is taken, its tags are looked at: they show a site
that has just come back with older data, which an engine that does not read that site notices some seconds later.
"""

import json
import pathlib
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import attrs
import click

from bisync.core.states import STATES, SYNCHRONIZING

if TYPE_CHECKING:
    from bisync.config import Job, Site
    from bisync.core.position import Clock
    from bisync.runtime.control import Control
    from bisync.status import Report

POLL_S = 0.1  # between two looks at the store; an engine saves its report several times a second
ASK_AGAIN_S = 0.5  # between two questions to a site that was away, or whose history changed
ASK_TIMEOUT_S = 5.0  # for a site's answer, and never more than the time that is left


@attrs.frozen
class Outcome:
    """What came out of waiting."""

    reached: bool
    missing: tuple[str, ...]  # sentences that say what is still missing; empty when reached
    waited_s: float


@click.command(name="wait")
@click.argument("job", type=click.Path(path_type=pathlib.Path))
@click.option("--state", type=click.Choice(STATES), help="Wait until the job is in this state.")
@click.option("--drained", is_flag=True, help="Wait until all that was written before is applied at the other site.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0),
    default=60.0,
    show_default=True,
    metavar="S",
    help="How long to wait at most, in seconds.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON document on standard output.")
@click.pass_context
def command(
    ctx: click.Context, job: pathlib.Path, state: str | None, drained: bool, timeout: float, as_json: bool
) -> None:
    """Wait for JOB: for a state (--state), or until it is drained (--drained).

    Drained: all that was written at either site before this call is applied at the other one, and no arbitration is
    open. Exit status: 0 when so, 1 when the time is up (what is missing is said on standard error), 2 for wrong use
    or a bad job file.
    """
    from bisync.config import load_job

    if (state is not None) == drained:
        raise click.UsageError("say what to wait for: either --state STATE or --drained")
    loaded = load_job(job)
    outcome = wait_drained(loaded, timeout) if state is None else wait_for_state(loaded, state, timeout)
    if as_json:
        document = {"reached": outcome.reached, "missing": outcome.missing, "waited_s": round(outcome.waited_s, 3)}
        click.echo(json.dumps(document, indent=2))
    if not outcome.reached:
        wanted = "drained" if state is None else state
        click.echo(f"{loaded.name} is not {wanted} after {timeout:g} s: {'; '.join(outcome.missing)}", err=True)
    ctx.exit(0 if outcome.reached else 1)


def wait_for_state(job: "Job", state: str, timeout_s: float, each: Callable[[], object] = lambda: None) -> Outcome:
    """Wait until the job is in the state. `each` is called before every look, and may raise to give up.

    Raises StoreError where the store cannot be used.
    """

    def missing() -> list[str]:
        now, words = _state(job)
        return [] if now == state else [words]

    return _poll(missing, timeout_s, each)


def wait_drained(job: "Job", timeout_s: float, each: Callable[[], object] = lambda: None) -> Outcome:
    """Wait until all that was written before this call is applied, and no arbitration is open.

    Raises StoreError where the store cannot be used, and SiteError where a site refuses to be asked.
    """
    from bisync.status import missing_for_drain, read_report

    ends = _Ends(job, time.monotonic() + timeout_s)

    def missing() -> list[str]:
        report = read_report(job, _now_ms())
        away = ends.ask(report)
        return [*missing_for_drain(report, ends.targets), *away] or ends.ask_tags(report)

    outcome = _poll(missing, timeout_s, each)
    if not outcome.reached:
        now, words = _state(job)
        if now != SYNCHRONIZING:
            return attrs.evolve(outcome, missing=(*outcome.missing, words))
    return outcome


class _Ends:
    """Where each source site's stream stood when it was first asked: what must be applied at the other site."""

    def __init__(self, job: "Job", deadline_s: float) -> None:
        self._job = job
        self._sites = [job.source] if job.topology == "one-way" else [job.source, job.target]
        self._deadline_s = deadline_s
        self._again_s: dict[str, float] = {}  # by site: no question before this time
        self._away: dict[str, str] = {}  # by site: why it could not be asked
        self.targets: dict[str, tuple[str, int]] = {}  # by site: replication id, offset in bytes

    def ask(self, report: "Report | None") -> list[str]:
        """Ask the sites that must be asked; what keeps a site from telling its end.

        A site is asked again when the engine follows another history of it than the one that was told: after a
        restart or a failover the offset of the old one may never be reached.
        """
        for site in self._sites:
            if self._wanted(site.name, report) and time.monotonic() >= self._again_s.get(site.name, 0.0):
                self._ask(site)
                self._again_s[site.name] = time.monotonic() + ASK_AGAIN_S
        return list(self._away.values())

    def _wanted(self, name: str, report: "Report | None") -> bool:
        if name not in self.targets:
            return True
        followed = report.drained.get(name) if report is not None else None
        return followed is not None and followed.replid != self.targets[name][0]

    def _ask(self, site: "Site") -> None:
        from bisync.errors import SiteError

        try:
            with self._control(site) as control:
                info = control.info("replication")
                # before Redis 4.0 a run of the server has one history, which has its name
                replid = info.get("master_replid") or control.info("server")["run_id"]
        except SiteError as e:
            if not e.heals:
                raise
            self._away[site.name] = e.what
        else:
            self._away.pop(site.name, None)
            self.targets[site.name] = replid, int(info["master_repl_offset"])

    def _control(self, site: "Site") -> "Control":
        from bisync.runtime.control import Control

        return Control(site, timeout_s=min(ASK_TIMEOUT_S, max(POLL_S, self._deadline_s - time.monotonic())))

    def ask_tags(self, report: "Report | None") -> list[str]:
        """Does each target still hold what this report says is applied there? In words, where it does not."""
        drained = report.drained if report is not None else {}
        told = {site: drained[site.name].told for site in self._sites if site.name in drained}
        return [text for site, clock in told.items() if clock is not None for text in self._ask_tag(site, clock)]

    def _ask_tag(self, origin: "Site", told: "Clock") -> list[str]:
        """Compare the tag of the channel that reads `origin` with what the engine has committed."""
        from bisync.core.rules import FORWARD, REVERSE
        from bisync.core.tag import Tag, tag_key
        from bisync.errors import BisyncError, SiteError

        forward = origin == self._job.source
        site = self._job.target if forward else self._job.source
        key = tag_key(self._job.name, FORWARD if forward else REVERSE)
        try:
            with self._control(site) as control:
                held = control.call("GET", key)
        except SiteError as e:
            if not e.heals:
                raise
            return [e.what]
        name = f"{site.name}: the tag {key.decode()}"
        try:
            applied = Tag.decode(held).applied if held is not None else None
        except BisyncError as e:
            return [f"{name} was overwritten: {e.what}"]
        if applied is None:
            return [f"{name} is gone, and the engine has not noticed yet"]
        older = "is older than the one that the engine has committed, and the engine has not noticed yet"
        return [f"{name} {older}: the site came back with older data"] if applied < told else []


def _poll(missing: Callable[[], list[str]], timeout_s: float, each: Callable[[], object]) -> Outcome:
    """Look until nothing is missing or the time is up; once at least."""
    began_s = time.monotonic()
    while True:
        each()
        found = missing()
        waited_s = time.monotonic() - began_s
        if not found or waited_s >= timeout_s:
            return Outcome(not found, tuple(found), waited_s)
        time.sleep(min(POLL_S, timeout_s - waited_s))


def _state(job: "Job") -> tuple[str, str]:
    """The job's state, and the same as a sentence with the reason."""
    from bisync.status import read_status

    document = read_status(job, _now_ms())
    reason = f" ({document['reason']})" if document["reason"] else ""
    return document["state"], f"its state is {document['state']}{reason}"


def _now_ms() -> int:
    return int(time.time() * 1000)

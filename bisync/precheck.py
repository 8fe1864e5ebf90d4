"""Everything that can be known before a job starts: each check with its result, the reason, and what to do.

First both sites are surveyed, at the same time (`bisync.runtime.survey`); then each check judges the answers
(`bisync.checks`). Nothing here changes a site, and nothing makes it take a snapshot.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import attrs

from bisync import access_checks, checks
from bisync.checks import Finding, Result, Side
from bisync.config import Job, Site
from bisync.errors import SiteError
from bisync.runtime.control import PasswordRefused, place
from bisync.runtime.survey import Questions, survey


@attrs.frozen
class Check:
    """One check: what was looked at, where, and what came out."""

    name: str  # stable: others may look for it
    site: str | None  # the site's name; None where the check is about both
    result: Result
    reason: str  # what was found, with its values
    remedy: str = ""  # what to do; empty where nothing is


SITE_CHECKS: dict[str, Callable[[Side], Finding]] = {
    "encryption": access_checks.encryption,
    "files": access_checks.files,
    "loading": checks.loading,
    "role": checks.role,
    "version": checks.version,
    "cluster": checks.cluster,
    "commands": checks.commands,
    "rights": checks.rights,
    "every write": access_checks.every_write,
    "conflicts": checks.conflicts,
    "heartbeat": access_checks.heartbeat,
    "verify": access_checks.comparison,
    "tag": checks.tag,
    "eviction": checks.eviction,
    "backlog": checks.backlog,
    "clock": checks.clock,
}
"""What is asked of each site, after "reachable" and "password"."""

PAIR_CHECKS: dict[str, Callable[[Side, Side], Finding]] = {
    "not the same server": checks.not_the_same,
    "target empty": checks.empty,
    "databases": checks.databases,
    "memory": checks.memory,
    "formats": checks.formats,
    "conflict copies": checks.conflict_copies,
    "clocks": checks.clocks,
}
"""What is asked of source and target together."""

NO_ANSWER = Finding("not-checked", "the site could not be asked")


def precheck(job: Job) -> list[Check]:
    """Run all checks, in the order in which a person would ask. Waits for both sites: call it in a worker thread.

    A site that cannot be reached is a failed check and not an exception.
    """
    asked = (_questions(job, job.source), _questions(job, job.target))
    with ThreadPoolExecutor(2) as pool:
        surveys = list(pool.map(survey, (job.source, job.target), asked))
    source, target = (Side(job, q, s) for q, s in zip(asked, surveys))
    return [*_about_site(source), *_about_site(target), *_about_both(source, target)]


def _questions(job: Job, site: Site) -> Questions:
    both_ways, is_source = job.topology == "bidirectional", site.name == job.source.name
    writes = both_ways or not is_source
    swapdb = job.commands.swapdb or ("stop" if both_ways else "pass")
    return Questions(
        job=job.name,
        reads=both_ways or is_source,
        writes=writes,
        settles=both_ways,
        beats=not writes and job.engine.heartbeat_ms > 0,
        tags=("reverse" if is_source else "forward",) if writes else (),
        passed=tuple(o for o in ("flush", "publish", "function") if getattr(job.commands, o) == "pass")
        + (("swapdb",) if swapdb == "pass" else ()),
        whole=not job.objects.include,
        counts=None if is_source else job.objects.inverted().holds,
    )


def _about_site(side: Side) -> Iterator[Check]:
    name, problem = side.site.name, side.survey.problem
    for title, found in (("reachable", _reachable(side)), ("password", _password(side))):
        yield Check(title, name, found.result, found.reason, found.remedy)
    for title, judge in SITE_CHECKS.items():
        if problem is not None:
            found = NO_ANSWER
        elif side.survey.loading and title != "loading":
            found = Finding("not-checked", "the site is loading its data")
        else:
            found = judge(side)
        yield Check(title, name, found.result, found.reason, found.remedy)


def _about_both(source: Side, target: Side) -> Iterator[Check]:
    for title, judge in PAIR_CHECKS.items():
        asked = (target,) if title == "target empty" else (source, target)
        silent = [s.site.name for s in asked if s.survey.problem is not None or s.survey.loading]
        if silent:
            found = Finding("not-checked", f"{' and '.join(silent)} could not be asked")
        else:
            found = judge(source, target)
        yield Check(title, None, found.result, found.reason, found.remedy)


def _reachable(side: Side) -> Finding:
    problem = side.survey.problem
    if problem is None or isinstance(problem, PasswordRefused):
        return Finding("ok", f"{place(side.site)} answers")
    return _failed(side, problem)


def _password(side: Side) -> Finding:
    problem = side.survey.problem
    if isinstance(problem, PasswordRefused):
        return _failed(side, problem)
    return Finding("ok", f"logged in as {side.account!r}") if problem is None else NO_ANSWER


def _failed(side: Side, problem: SiteError) -> Finding:
    reason = problem.what.removeprefix(f"{side.site.name}: ")
    return Finding("failed", f"{reason} ({problem.why})" if problem.why else reason, problem.hint)

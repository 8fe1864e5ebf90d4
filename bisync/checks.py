"""The judgements of the precheck: plain functions from what two sites said of themselves to a `Finding`.

None of them asks a server anything; `bisync.runtime.survey` has done that. Each result names the values it rests on,
and each that is not "ok" says what to do.
"""

import re
from typing import Literal

import attrs

from bisync.config import Job, Site
from bisync.core.abilities import FALLBACKS
from bisync.core.tag import Tag, tag_key
from bisync.errors import BisyncError
from bisync.runtime.control import REMEDIES, Refusal, acl_rule
from bisync.runtime.survey import PROBE_KEY, Questions, Survey
from bisync.text import readable

Result = Literal["ok", "warning", "failed", "not-checked"]
KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30

BACKLOG_MIN = 16 * MIB  # bytes; the stock 1 MiB is gone within a second of a bulk load
BACKLOG_MIN_S = 60.0  # seconds of writes that the backlog should hold: a restart of bisync, with room
CLOCK_MAX_S = 1.0  # clocks further apart than this make times to live end visibly early or late
MEMORY_ROOM = 1.2  # the same data takes more at another server: fragmentation, buffers, another allocator
OLDEST = (2, 8)  # the first release with PSYNC

RDB_VERSIONS = {(8, 10): 15, (8, 6): 13, (7, 4): 12, (7, 2): 11, (7, 0): 10, (5, 0): 9, (4, 0): 8, (3, 2): 7}
"""The RDB version that a Redis of this release or a later one writes; RESTORE refuses a payload of a newer one."""

FEATURES = {
    "EVAL": "a stream that both sites wrote cannot be merged",
    "XINFO STREAM": "a stream that both sites wrote cannot be merged",
    "ROLE": "of two writes it is less often certain which one is newer",
    "UNWATCH": "`bisync undo` cannot put back what lost",
    "MEMORY USAGE": "big keys in conflict cannot be told, nor copied in parts",
    "FUNCTION LIST": "function libraries that both sites changed cannot be settled",
    "FUNCTION DUMP": "function libraries that both sites changed cannot be settled",
    "FUNCTION RESTORE": "function libraries that both sites changed cannot be settled",
}
"""Commands that only some conflicts need, with what cannot be done without them."""


@attrs.frozen
class Finding:
    """What a check found."""

    result: Result
    reason: str  # what was found, with its values
    remedy: str = ""  # what to do; empty where nothing is


@attrs.frozen
class Side:
    """One site in its part of the job."""

    job: Job
    questions: Questions
    survey: Survey

    @property
    def site(self) -> Site:
        """The site's entry in the job file."""
        return self.survey.site

    @property
    def account(self) -> str:
        """The name of the account that is used here."""
        return self.site.endpoint.account

    @property
    def under_way(self) -> bool:
        """Does the site hold a tag of this very job?"""
        return any(isinstance(_read_tag(self.job.name, v), Tag) for v in self.survey.tags.values() if v is not None)


def size(n: float) -> str:
    """A number of bytes for people."""
    for unit, name in ((GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")):
        if n >= unit:
            return f"{n / unit:.1f} {name}"
    return f"{n:.0f} bytes"


def _not_told(side: Side, command: str = "INFO") -> Finding:
    remedy = f"to have it checked: ACL SETUSER {side.account} +{command.lower()}"
    return Finding("not-checked", f"the account may not use {command} here", remedy)


def loading(side: Side) -> Finding:
    """A server that is loading its data takes no commands yet."""
    if side.survey.info is None:
        return _not_told(side)
    if side.survey.loading:
        percent = side.survey.info.get("loading_loaded_perc", "?")
        return Finding("failed", f"still loading its data ({percent} %)", "wait until it has, then try again")
    return Finding("ok", "its data is loaded")


def role(side: Side) -> Finding:
    """bisync writes to masters only; a replica would refuse, or lose what is written to it."""
    info = side.survey.info
    if info is None:
        return _not_told(side)
    if info.get("redis_mode") == "sentinel":
        return Finding("failed", "this is a Sentinel, not a server with data", "name the master's host and port")
    if info.get("role") == "master":
        return Finding("ok", "a master")
    master = f"{info.get('master_host')}:{info.get('master_port')}"
    if side.questions.writes:
        return Finding("failed", f"a replica of {master}, and bisync has to write here", f"name its master, {master}")
    return Finding(
        "warning", f"a replica of {master}: it may be read, but lags behind", f"or name its master, {master}"
    )


def rights(side: Side) -> Finding:
    """May the account do all that its part of the job needs, and does the server accept it at this moment?"""
    denied = {c: r for c, r in side.survey.refused.items() if r.denied}
    if denied:
        rules = list(dict.fromkeys(_rule(side, c, r) for c, r in denied.items()))
        reason = f"the account {side.account!r} may not use {', '.join(denied)} here"
        return Finding("failed", reason, f"ACL SETUSER {side.account} {' '.join(rules)}")
    for command, reply in side.survey.refused.items():
        if not reply.unknown:
            reason = f"{command} was refused: {reply.code} {reply.text}"
            return Finding("failed", reason, REMEDIES.get(reply.code, "see the server's answer"))
    questions = side.questions
    uses = [w for w, used in (("read its stream", questions.reads), ("write", questions.writes)) if used]
    return Finding("ok", f"the account {side.account!r} may {' and '.join(uses)}")


def _rule(side: Side, command: str, reply: Refusal) -> str:
    own = {"SET", "GET", "WATCH", "HGETALL"}
    key = tag_key(side.job.name, "forward") if command in own else PROBE_KEY
    return acl_rule((command, key), reply)


def conflicts(side: Side) -> Finding:
    """May bisync do here what settles a conflict? It reads a unit at one site and restores it at the other."""
    if not side.questions.settles:
        return Finding("ok", "a one-way job has no conflicts to settle")
    missing = side.survey.unsettling
    needed = [c for c in missing if c not in FEATURES and not (missing[c].unknown and c.encode() in FALLBACKS)]
    # servers before 7.0 have no function libraries, so there is nothing to settle either
    features = [c for c in missing if c in FEATURES and not (missing[c].unknown and release(side.survey) < (7, 0))]
    if not needed and not features:
        return Finding("ok", f"the account {side.account!r} may settle every kind of conflict")
    shown = needed or features
    reason = _cannot(side, {c: missing[c] for c in shown})
    if needed:
        return Finding("failed", f"{reason}: no conflict could be settled", _allow(side, [*needed, *features]))
    suffers = "; ".join(dict.fromkeys(FEATURES[c] for c in features))
    return Finding("warning", f"{reason}: {suffers}", _allow(side, features))


def _cannot(side: Side, missing: dict[str, Refusal]) -> str:
    """Which commands the account may not use, which the server does not have, and which it refuses now."""
    denied = [c for c, reply in missing.items() if reply.denied]
    unknown = [c for c, reply in missing.items() if reply.unknown]
    others = [f"{c} was refused ({r.code} {r.text})" for c, r in missing.items() if not r.denied and not r.unknown]
    parts = [f"the account {side.account!r} may not use {', '.join(denied)} here"] if denied else []
    parts += [f"the server has no {', '.join(unknown)}"] if unknown else []
    return "; ".join(parts + others)


def _allow(side: Side, commands: list[str]) -> str:
    """What makes the server take these commands, each of which it refused."""
    steps = []
    replies = {c: side.survey.unsettling[c] for c in commands}
    if rules := [_settling_rule(c, r) for c, r in replies.items() if r.denied]:
        steps.append(f"ACL SETUSER {side.account} {' '.join(dict.fromkeys(rules))}")
    if any(r.unknown for r in replies.values()):
        steps.append("use Redis 7.0 or newer, without rename-command for them")
    steps += [REMEDIES.get(r.code, "see the server's answer") for r in replies.values() if not (r.denied or r.unknown)]
    return "; ".join(dict.fromkeys(steps))


def _settling_rule(command: str, reply: Refusal) -> str:
    rule = acl_rule((command, PROBE_KEY), reply)
    return rule.replace(" ", "|")  # a subcommand: +memory|usage


def commands(side: Side) -> Finding:
    """Are the commands there that bisync cannot do without?"""
    missing = [c for c, r in side.survey.refused.items() if r.unknown]
    if missing:
        remedy = "remove rename-command for them from the server's configuration"
        return Finding("failed", f"the server has no {', '.join(missing)}: renamed or disabled", remedy)
    return Finding("ok", "none that is needed is renamed or disabled")


def version(side: Side) -> Finding:
    """Is the server new enough to be read as a replica reads it?"""
    if side.survey.info is None:
        return _not_told(side)
    if release(side.survey) < OLDEST:
        return Finding("failed", f"{product(side.survey)} has no PSYNC", "use Redis 2.8 or newer")
    return Finding("ok", product(side.survey))


def cluster(side: Side) -> Finding:
    """A node of a cluster holds only a part of the keys."""
    if side.survey.info is None:
        return _not_told(side)
    if side.survey.info.get("cluster_enabled") == "1":
        reason = "the server is a node of a cluster, and clusters are not supported yet"
        return Finding("failed", reason, "use a server with cluster-enabled no")
    return Finding("ok", "not a node of a cluster")


def eviction(side: Side) -> Finding:
    """What a server evicts reaches its stream as DEL, and would be deleted at the other site too."""
    if side.survey.info is None:
        return _not_told(side)
    policy = side.survey.info.get("maxmemory_policy")
    if policy is None:
        return Finding("not-checked", "the server does not tell its maxmemory-policy", "see that it is noeviction")
    if policy != "noeviction":
        reason = f"maxmemory-policy is {policy}: what is evicted here would be lost at the other site too"
        remedy = "CONFIG SET maxmemory-policy noeviction"
        if side.job.engine.allow_eviction:
            return Finding("warning", f"{reason}, and the job allows it", f"be sure that keys may vanish, or {remedy}")
        return Finding("failed", reason, f"{remedy}; where keys may vanish: allow_eviction = true under [engine]")
    return Finding("ok", "maxmemory-policy is noeviction")


def backlog(side: Side) -> Finding:
    """Does the backlog hold the stream long enough for bisync to come back after a cut?"""
    if not side.questions.reads:
        return Finding("ok", "the stream of this site is not read")
    held, rate = side.survey.number("repl_backlog_size"), side.survey.written_per_s
    if held is None:
        return _not_told(side)
    wanted = max(BACKLOG_MIN, int((rate or 0) * BACKLOG_MIN_S))
    now = f"; now about {size(rate)}/s are written" if rate else ""
    reason = f"repl-backlog-size is {size(held)}{now}"
    if held < wanted:
        remedy = f"CONFIG SET repl-backlog-size {-(-wanted // MIB)}mb"
        return Finding("warning", f"{reason}: a longer cut would need a new full copy", remedy)
    return Finding("ok", reason)


def clock(side: Side) -> Finding:
    """Is the site's clock near this machine's? What bisync makes of expiries rests on both."""
    if side.survey.ahead_s is None:
        return _not_told(side, "TIME")
    least, most = side.survey.ahead_s
    reason = f"its clock is {least:+.3f} to {most:+.3f} s from this machine's"
    if _apart(least, most) > CLOCK_MAX_S:
        return Finding("warning", reason, "set both clocks with NTP: times to live are compared with them")
    return Finding("ok", reason)


def _apart(least: float, most: float) -> float:
    """How many seconds two clocks are certainly apart, whatever the round trips took."""
    return max(least, -most, 0.0)


def tag(side: Side) -> Finding:
    """The tag key is ours alone: another value there is not overwritten."""
    for channel, value in side.survey.tags.items():
        key = tag_key(side.job.name, channel).decode()
        if value is None:
            continue
        found = _read_tag(side.job.name, value)
        if not isinstance(found, Tag):
            if isinstance(value, Refusal) and value.denied:
                return _not_told(side, "GET")
            remedy = f"see what wrote it; then delete it (DEL {key}), or give the job another name"
            return Finding("failed", f"the key {key} holds a foreign value: {found}", remedy)
        return Finding("ok", f"{key} is a tag of this job, epoch {found.epoch}: the job goes on from it")
    return Finding("ok", "no tag yet: the job begins" if side.survey.tags else "no tag is kept at this site")


def _read_tag(job: str, value: object) -> Tag | str:
    """The job's tag, or what is wrong with the value."""
    if isinstance(value, Refusal):
        return f"{value.code} {value.text}"
    if not isinstance(value, bytes):
        return repr(value)
    try:
        found = Tag.decode(value)
    except BisyncError as e:
        return str(e).split(" Next:")[0]
    if found.job != job:
        return f"a tag of job {found.job!r}"
    return found


def not_the_same(source: Side, target: Side) -> Finding:
    """Two addresses of one server, or a site that already replicates from the other, would copy in circles."""
    a, b = source.survey.info, target.survey.info
    if a is None or b is None:
        return _not_told(source if a is None else target)
    if a["run_id"] == b["run_id"]:
        reason = f"{source.site.name} and {target.site.name} are the same server (run_id {a['run_id']})"
        return Finding("failed", reason, "correct the url of one of them")
    if a.get("master_replid") == b.get("master_replid") and "slave" in (a.get("role"), b.get("role")):
        reason = "one site is a replica of the other, or both of the same master"
        return Finding("failed", reason, "detach it (REPLICAOF NO ONE), or name another server")
    return Finding("ok", "two different servers")


def empty(source: Side, target: Side) -> Finding:
    """The full copy would overwrite keys of a target that is not empty, and leave others beside the copy."""
    found = target.survey
    if target.under_way:
        return Finding("ok", "the target need not be empty: this job is already under way")
    if found.occupied is None and found.looked_at_all:
        return Finding("ok", "the target is empty: it holds no key that this job would write")
    if found.occupied is None:
        reason = "the target has too many keys outside this job's patterns to be sure that it is empty for the job"
        return Finding("warning", reason, "look for keys that match the job's include patterns")
    db, key = found.occupied
    reason = f"the target is not empty: database {db} holds {readable(key)!r}, for one"
    if target.job.full_copy.target_not_empty == "refuse":
        other = ', or to "reconcile"' if target.job.topology == "bidirectional" else ""
        remedy = f'empty the target (FLUSHALL), or set target_not_empty to "overwrite"{other} under [full_copy]'
        return Finding("failed", reason, remedy)
    if target.job.full_copy.target_not_empty == "reconcile":
        return Finding("ok", f"{reason}; both sites are reconciled: `bisync reconcile --dry-run` shows what that means")
    return Finding(
        "warning", f"{reason}, and the job says {target.job.full_copy.target_not_empty}", "be sure that it may"
    )


def databases(source: Side, target: Side) -> Finding:
    """Has the target all the databases that the job would write?"""
    count = target.survey.database_count
    if count is None:
        return _not_told(target, "SELECT")
    scope = target.job.objects
    held = {scope.target_database(db) for db in source.survey.databases}
    used = {db for db in held | set((scope.databases or {}).values()) if db is not None}
    beyond = sorted(db for db in used if db >= count)
    if beyond:
        reason = f"the target has {count} databases, and database {beyond[0]} would be written"
        return Finding("failed", reason, f"set databases {beyond[-1] + 1} on the target, or map it under [objects]")
    there = source.survey.database_count
    if not scope.databases and there is not None and there > count:
        reason = f"the source has {there} databases, the target only {count}"
        return Finding("warning", reason, f"a write to database {count} or higher would stop the job; raise databases")
    return Finding("ok", f"the target has {count} databases, enough for all that is written")


def memory(source: Side, target: Side) -> Finding:
    """Does the source's data fit into the target?"""
    if source.survey.info is None or target.survey.info is None:
        return _not_told(source if source.survey.info is None else target)
    data = source.survey.number("used_memory_dataset") or source.survey.number("used_memory") or 0
    limit, machine = target.survey.number("maxmemory"), target.survey.number("total_system_memory")
    bound, name = (limit, "maxmemory") if limit else (machine, "memory of the machine")
    if not bound:
        return Finding("ok", f"the source holds {size(data)}; the target has no limit")
    reason = f"the source holds {size(data)}, the target's {name} is {size(bound)}"
    if data > bound and not target.under_way:
        return Finding("failed", reason, "raise maxmemory on the target, or use a larger machine")
    if data * MEMORY_ROOM > bound:
        return Finding("warning", f"{reason}: little room", "raise maxmemory on the target, or use a larger machine")
    return Finding("ok", reason)


def formats(source: Side, target: Side) -> Finding:
    """Can the target read the values that the full copy hands on as RESTORE payloads?"""
    if source.survey.info is None or target.survey.info is None:
        return _not_told(source if source.survey.info is None else target)
    theirs, ours = rdb_version(source.survey), rdb_version(target.survey)
    names = f"{product(source.survey)} to {product(target.survey)}"
    if theirs > ours:
        reason = (
            f"{names}: the target knows RDB {ours} and the source writes {theirs}: values of newer formats are made "
            "anew from commands; those of modules cannot be, and commands that the target lacks are refused"
        )
        return Finding("warning", reason, "use a target of the same version as the source, or newer, if you can")
    if release(source.survey)[:1] > release(target.survey)[:1]:
        reason = f"{names}: the target is older, and lacks commands that clients of the source may use"
        return Finding("warning", reason, "use a target of the same version as the source, or newer")
    return Finding("ok", f"{names}: the target reads the source's format")


def conflict_copies(source: Side, target: Side) -> Finding:
    """Can a key in conflict travel in one piece, whichever site holds the right value?"""
    if not source.questions.settles:
        return Finding("ok", "a one-way job has no conflicts to settle")
    if source.survey.info is None or target.survey.info is None:
        return _not_told(source if source.survey.info is None else target)
    there, here = rdb_version(source.survey), rdb_version(target.survey)
    if there == here:
        return Finding("ok", f"both sites write RDB {here}: keys in conflict are copied by DUMP and RESTORE")
    older, newer = (source, target) if there < here else (target, source)
    names = [f"{side.site.name} ({product(side.survey)}, RDB {rdb_version(side.survey)})" for side in (older, newer)]
    reason = f"{names[0]} cannot read what {names[1]} dumps: on that way keys in conflict are rebuilt from commands"
    return Finding("ok", reason)


def clocks(source: Side, target: Side) -> Finding:
    """Do both sites expire a key at the same moment? A time to live is copied as the time of its end."""
    a, b = source.survey.ahead_s, target.survey.ahead_s
    if a is None or b is None:
        return _not_told(source if a is None else target, "TIME")
    least, most = b[0] - a[1], b[1] - a[0]
    names = f"the clock of {target.site.name} is {least:+.3f} to {most:+.3f} s from that of {source.site.name}"
    if _apart(least, most) > CLOCK_MAX_S:
        return Finding("warning", f"{names}: keys expire so much earlier at one site", "set both clocks with NTP")
    return Finding("ok", names)


def product(found: Survey) -> str:
    """Name and version of the server."""
    info = found.info or {}
    if "valkey_version" in info:
        return f"Valkey {info['valkey_version']}"
    return f"Redis {info.get('redis_version', '(version unknown)')}"


def release(found: Survey) -> tuple[int, ...]:
    """The version of Redis that the server is, or says it is compatible with."""
    return tuple(int(n) for n in re.findall(r"\d+", (found.info or {}).get("redis_version", ""))[:3])


def rdb_version(found: Survey) -> int:
    """The RDB version that the server writes. Valkey 7.2 to 9 writes that of Redis 7.2, which it says it is."""
    return next((rdb for since, rdb in RDB_VERSIONS.items() if release(found)[:2] >= since), 6)

"""The judgements of the precheck on how a site is reached and what the account may do there.

As in `bisync.checks`, none of them asks a server anything.
"""

import time
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from bisync.checks import Finding, Side
from bisync.passwords import open_to_others
from bisync.runtime.control import Refusal, acl_rule
from bisync.runtime.probes import READS, VECTORS, WRITES
from bisync.runtime.survey import PROBE_KEY

DAYS_LEFT = 14  # in which a certificate is to be renewed
SHOWN = 4  # commands of many


def encryption(side: Side) -> Finding:
    """Is the connection encrypted, is it known to whom, and for how long will that be so?"""
    endpoint, secured = side.site.endpoint, side.survey.secured
    if endpoint.tls is None or secured is None:
        return Finding("ok", "not encrypted: the site's url is redis://")
    reason = f"{secured.version}, {secured.cipher}"
    if secured.expires_s is not None:
        days = (secured.expires_s - time.time()) / 86_400
        reason += f"; the server's certificate is valid for another {days:.0f} days"
        if days < DAYS_LEFT:
            return Finding("warning", reason, "renew it on the server: bisync refuses one that has expired")
    if not endpoint.tls.check_name:
        remedy = "set check_name = true, with server_name where the host of the url is not the certificate's name"
        return Finding("warning", f"{reason}; it may be for any name (check_name = false)", remedy)
    return Finding("ok", reason)


def files(side: Side) -> Finding:
    """Can others read the files that hold this site's secrets?"""
    opened = [(path, mode) for path in _secret_files(side) if (mode := open_to_others(path))]
    if not opened:
        return Finding("ok", "no file with a secret of this site is open to others")
    names = ", ".join(f"{path.name} ({mode})" for path, mode in opened)
    remedy = "; ".join(f"chmod 600 {path}" for path, _ in opened)
    return Finding("warning", f"others may read or change what holds a secret: {names}", remedy)


def _secret_files(side: Side) -> Iterator[Path]:
    endpoint = side.site.endpoint
    if endpoint.password is not None:
        yield side.job.path
    if endpoint.kept is not None and endpoint.kept.path is not None:
        yield endpoint.kept.path
    if endpoint.tls is not None and endpoint.tls.cert_file is not None:
        yield endpoint.tls.key_file or endpoint.tls.cert_file
        if endpoint.tls.key_password is not None and endpoint.tls.key_password.path is not None:
            yield endpoint.tls.key_password.path


def every_write(side: Side) -> Finding:
    """May the account write whatever clients write at the other site? Else the job would stop at the first such."""
    if not side.questions.writes:
        return Finding("ok", "nothing is written to this site but a heartbeat, if the account may")
    if not side.survey.unapplied:
        return Finding("ok", f"the account {side.account!r} may write whatever clients write at the other site")
    reason = f"the account {side.account!r} may not use {_listed(side.survey.unapplied)} here"
    remedy = _allow(side, side.survey.unapplied, WRITES, "+@write")
    return Finding("failed", f"{reason}: the first such write at the other site would stop the job", remedy)


def heartbeat(side: Side) -> Finding:
    """May the account write the heartbeat where it writes nothing else? Without it the lag is not known in ms."""
    if not side.questions.beats:
        return Finding("ok", "written with all else" if side.questions.writes else "none is wanted")
    if not side.survey.unbeaten:
        return Finding("ok", f"the account {side.account!r} may write it")
    reason = f"the account {side.account!r} may not use {_listed(side.survey.unbeaten)} here"
    rules = {acl_rule((command, b"bisync:"), reply) for command, reply in side.survey.unbeaten.items()}
    remedy = f"ACL SETUSER {side.account} {' '.join(sorted(rules))}; or set heartbeat_ms = 0 under [engine]"
    return Finding("warning", f"{reason}: the lag will not be known in ms", remedy)


def comparison(side: Side) -> Finding:
    """May the account read all that `bisync verify` compares? The sync does not need it."""
    if not side.survey.unread:
        return Finding("ok", f"the account {side.account!r} may read what `bisync verify` compares")
    reason = f"the account {side.account!r} may not use {_listed(side.survey.unread)} here"
    remedy = _allow_reading(side)
    if "reconcile" in (side.job.full_copy.target_not_empty, side.job.full_copy.on_gap):
        return Finding("failed", f"{reason}: the sites cannot be reconciled, as the job file wants it", remedy)
    return Finding("warning", f"{reason}: `bisync verify` could not compare all", remedy)


def _allow_reading(side: Side) -> str:
    """The rules that would allow what is compared.

    To the server all commands of vector sets write, so `%R~*` does not do for those that read. Where bisync writes no
    keys, a selector gives the right to these keys for these commands alone (7.0 and newer, as they are themselves).
    """
    vectors = [c for c in side.survey.unread if c in VECTORS and not side.questions.writes]
    others = {c: reply for c, reply in side.survey.unread.items() if c not in vectors}
    remedy = _allow(side, others, READS, "+@read")
    return f"{remedy} (~* {' '.join('+' + c.lower() for c in vectors)})" if vectors else remedy


def _listed(denied: Mapping[str, Refusal]) -> str:
    """A few of the commands, and how many more."""
    names = list(denied)
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN + 1 else ""
    return ", ".join(names[: SHOWN if more else None]) + more


def _allow(side: Side, denied: Mapping[str, Refusal], category: Collection[str], name: str) -> str:
    """The rules that would allow the commands; the whole category where most of it is missing."""
    rules = {command: acl_rule((command, PROBE_KEY), reply) for command, reply in denied.items()}
    lacking = {command for command, rule in rules.items() if rule.startswith("+") and command in category}
    many = 2 * len(lacking) > len(category)
    words = [name if many and command in lacking else rule.replace(" ", "|") for command, rule in rules.items()]
    return " ".join(("ACL SETUSER", str(side.account), *dict.fromkeys(words)))

"""Which of two concurrent writes wins: the policies, as one order on writes.

Under `last-writer`: an update beats a delete, of two times to live the longest, else the newest write. Where the
brackets of their times overlap, the one whose middle is later counts as newer. The write of the job's first site wins
where that tells nothing: where the middles are the same, and where one bracket is wider than `NARROW_US`, because then
bisync stood still and its ends say nothing of the write. Under the name of a site, that site's write.
"""

import attrs

from bisync.core.commands import deletes, expiry_of
from bisync.core.moment import Moment
from bisync.core.operation import Operation
from bisync.core.position import Clock
from bisync.core.rules import LAST_WRITER, Rules


@attrs.frozen(slots=True)
class Contender:
    """A write that met another one over a unit."""

    operation: Operation
    clock: Clock
    when: Moment
    site: str


@attrs.frozen(slots=True)
class Verdict:
    """Which one wins, and why."""

    winner: Contender
    rule: str  # one of actions.RULES
    certain: bool = True  # False: the times could not tell


def judge(rules: Rules, key: bytes, a: Contender, b: Contender) -> Verdict:
    """The winner of two writes over a unit of this key."""
    if a.operation.stale != b.operation.stale:
        return Verdict(b if a.operation.stale else a, "newest write")
    policy = rules.policy_for(key)
    if policy != LAST_WRITER and a.site != b.site:
        return Verdict(a if a.site == policy else b, "preferred site")
    if policy == LAST_WRITER:
        a_deletes, b_deletes = deletes(a.operation.args), deletes(b.operation.args)
        if a_deletes != b_deletes:
            return Verdict(b if a_deletes else a, "update over delete")
        ours, theirs = expiry_of(a.operation.args), expiry_of(b.operation.args)
        if ours is not None and theirs is not None and ours != theirs:
            return Verdict(a if ours > theirs else b, "longest time to live")
    if a.site == b.site:
        return Verdict(a if a.clock > b.clock else b, "newest write")
    certain = not a.when.overlaps(b.when)
    if a.when.is_likely_before(b.when):
        return Verdict(b, "newest write", certain)
    if b.when.is_likely_before(a.when):
        return Verdict(a, "newest write", certain)
    return Verdict(a if a.site == rules.source else b, "order of the sites", certain)

"""The tables `[conflicts]` and `[[conflicts.rules]]` of a job file: which write stands, and what is kept on record.

Glob patterns are read here too, for all tables that have some.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any

import attrs

from bisync import options
from bisync.core.rules import LAST_WRITER
from bisync.options import Mistake, WrongPlace, did_you_mean, option, whole

PREFER = "prefer:"
PATTERNS_MAX = 1_000  # all of them may be tried for each key
PATTERN_BYTES_MAX = 1_024
RULES_MAX = 100
PATTERNS = 'an array of glob patterns, such as ["order:*"]'

_POLICY = "'last-writer' or 'prefer:<site>'"
_PREFER_MEANT = re.compile(r"\s*prefer(?:red)?\s*[:=/ -]\s*([A-Za-z0-9_-]*)\s*", re.IGNORECASE)
_RULES = "tables [[conflicts.rules]], each with keys and a policy"

Policies = tuple[tuple[tuple[bytes, ...], str], ...]
"""((patterns, policy), ...) as `bisync.core.rules.Rules` has them."""


def _read_pattern(value: Any) -> str:
    if not isinstance(value, str) or not 0 < len(value.encode()) <= PATTERN_BYTES_MAX:
        raise ValueError(f"expected a glob pattern of 1 to {PATTERN_BYTES_MAX:,} bytes")
    return value


def read_patterns(value: Any) -> tuple[str, ...]:
    """An array of glob patterns, which may be empty. Raises ValueError or what `bisync.options` explains."""
    if not isinstance(value, list):
        raise ValueError(f"expected {PATTERNS}")
    if len(value) > PATTERNS_MAX:
        raise ValueError(f"expected at most {PATTERNS_MAX:,} patterns, not {len(value):,}")
    return options.array_of(value, _read_pattern)


def _read_keys(value: Any) -> tuple[str, ...]:
    if value == []:
        raise ValueError("expected at least one pattern, or no such rule")
    return read_patterns(value)


def _read_policy(value: Any) -> str:
    if isinstance(value, str) and (value == LAST_WRITER or value.startswith(PREFER)):
        return value
    meant = _PREFER_MEANT.fullmatch(value) if isinstance(value, str) else None
    if meant is not None and meant[1]:
        raise ValueError(f"expected {_POLICY}; did you mean {PREFER + meant[1].lower()!r}?")
    raise ValueError(f"expected {_POLICY}{did_you_mean(value, [LAST_WRITER, PREFER + '<site>'])}")


def _read_rules(value: Any) -> "tuple[KeyPolicy, ...]":
    if not isinstance(value, list):
        raise WrongPlace(f"expected {_RULES}, not {options.kind(value)}")
    if len(value) > RULES_MAX:
        raise ValueError(f"expected at most {RULES_MAX:,} rules, not {len(value):,}")
    rules: tuple[KeyPolicy, ...] = options.array_of(value, lambda rule: options.structure(rule, KeyPolicy))
    count = sum(len(rule.keys) for rule in rules)
    if count > PATTERNS_MAX:
        raise ValueError(f"expected at most {PATTERNS_MAX:,} patterns in all rules together, not {count:,}")
    return rules


def core_policy(policy: str) -> str:
    """A policy as the core has it: "last-writer" or the bare name of a site."""
    return policy.removeprefix(PREFER)


@attrs.frozen
class KeyPolicy:
    """A table `[[conflicts.rules]]`: the policy for the keys that match one of some patterns."""

    keys: tuple[str, ...] = attrs.field(metadata=option(_read_keys, PATTERNS))  # glob patterns, at least one
    policy: str = attrs.field(metadata=option(_read_policy, _POLICY))


@attrs.frozen
class Conflicts:
    """The table `[conflicts]`: which of two concurrent writes stands, and the log of those that did not."""

    policy: str = attrs.field(default=LAST_WRITER, metadata=option(_read_policy))  # or "prefer:<site>"
    # For some keys another policy; of several rules that match a key the first counts.
    rules: tuple[KeyPolicy, ...] = attrs.field(default=(), metadata=option(_read_rules))
    # The log drops its oldest entries beyond any of these three bounds.
    keep_days: int = attrs.field(default=30, metadata=whole(1, 36_500, "days"))
    keep_entries: int = attrs.field(default=100_000, metadata=whole(1, 100_000_000, "entries"))
    keep_bytes: int = attrs.field(default=256 << 20, metadata=whole(1 << 20, 1 << 40, "bytes"))
    # A replaced value of at most so many bytes is kept in the log; of a longer one its size and digest.
    value_bytes: int = attrs.field(default=1 << 16, metadata=whole(1, 1 << 26, "bytes", zero="keep no value"))
    # A key in conflict that takes more memory than this is copied in parts.
    rebuild_bytes: int = attrs.field(default=64 << 20, metadata=whole(1 << 16, 1 << 29, "bytes"))

    @property
    def preferred(self) -> str | None:
        """The name of the site whose writes win where no rule matches; None where the newest write does."""
        return core_policy(self.policy) if self.policy.startswith(PREFER) else None

    @property
    def policies(self) -> Policies:
        """The rules as the core has them; patterns in UTF-8."""
        return tuple((tuple(key.encode() for key in r.keys), core_policy(r.policy)) for r in self.rules)


def conflict_mistakes(table: Any, sites: Sequence[str], known: Sequence[str]) -> Iterator[Mistake]:
    """Mistakes in the table `[conflicts]` of a document that only two places of it together show.

    `sites`: the names of the job's sites; `known`: those that may be names. What is wrong by itself is passed over:
    reading tells it.
    """
    if not isinstance(table, dict):
        return
    rules = table.get("rules")
    places: list[tuple[options.Place, Any]] = [(("conflicts",), table)]
    if isinstance(rules, list):
        places += [(("conflicts", "rules", n), rule) for n, rule in enumerate(rules) if isinstance(rule, dict)]
    for place, part in places:
        policy = part.get("policy")
        if isinstance(policy, str) and policy.startswith(PREFER) and core_policy(policy) not in sites:
            wanted = [PREFER + name for name in known]
            right = f"expected a site of this job: {' or '.join(map(repr, wanted))}"
            yield Mistake((*place, "policy"), f"{right}{did_you_mean(policy, wanted)}")
    yield from _repeated(places[1:])
    yield from _too_small(table)


def _repeated(rules: Sequence[tuple[options.Place, Any]]) -> Iterator[Mistake]:
    """Patterns that an earlier rule has too, so that the later one never counts."""
    seen: dict[str, int] = {}
    for place, rule in rules:
        keys = rule.get("keys")
        for n, key in enumerate(keys if isinstance(keys, list) else ()):
            if isinstance(key, str) and (first := seen.setdefault(key, int(place[2]))) != place[2]:
                right = f"expected each pattern in one rule only; conflicts.rules[{first}] has it too, and counts first"
                yield Mistake((*place, "keys", n), right)


def _too_small(table: dict[str, Any]) -> Iterator[Mistake]:
    """A log that could not hold a single value."""
    value, whole_log = (table.get(name) for name in ("value_bytes", "keep_bytes"))
    bounds = attrs.fields_dict(Conflicts)
    if type(value) is int and type(whole_log) is int and value > whole_log:
        try:
            bounds["value_bytes"].metadata["reads"](value)
            bounds["keep_bytes"].metadata["reads"](whole_log)
        except ValueError:
            return
        yield Mistake(("conflicts", "value_bytes"), f"expected at most keep_bytes, which is {whole_log:,}")

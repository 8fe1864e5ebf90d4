"""The results of a run of these tests as tables: `python -m tests.versions.table RESULTS.xml` (pytest --junitxml)."""

import re
import sys
import xml.etree.ElementTree as xml
from collections.abc import Iterator

from tests.versions.harness import RELEASES

WORDS = {"failure": "FAILED", "error": "FAILED", "skipped": "-"}


def results(path: str) -> dict[str, dict[str, str]]:
    """By test and what stands in its brackets: ok, FAILED, or - where it was skipped."""
    found: dict[str, dict[str, str]] = {}
    for case in xml.parse(path).iter("testcase"):
        name, _, what = case.get("name", "").removesuffix("]").partition("[")
        if what:
            found.setdefault(name, {})[what] = next((WORDS[c.tag] for c in case if c.tag in WORDS), "ok")
    return found


def lines(found: dict[str, dict[str, str]]) -> Iterator[str]:
    """Of each test, in Markdown: pairs as a square where there are many, else a list."""
    for name, outcomes in found.items():
        yield from ("", name.removeprefix("test_").replace("_", " ") + ":", "")
        pairs = {tuple(what.split(" to ")): outcome for what, outcome in outcomes.items() if " to " in what}
        if len(pairs) < len(RELEASES) * 2:
            yield from (f"- {what}: {outcome}" for what, outcome in outcomes.items())
            continue
        yield "| source, below; target, right | " + " | ".join(RELEASES) + " |"
        yield "|" + "---|" * (len(RELEASES) + 1)
        for source in RELEASES:
            yield f"| {source} | " + " | ".join(pairs.get((source, target), "") for target in RELEASES) + " |"


if __name__ == "__main__":
    if len(sys.argv) != 2 or re.match("-", sys.argv[1]):
        sys.exit("usage: python -m tests.versions.table RESULTS.xml")
    print("\n".join(lines(results(sys.argv[1]))))

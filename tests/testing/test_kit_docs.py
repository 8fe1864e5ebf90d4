"""What `docs/testing.md` shows can be run."""

import pathlib
import re

import pytest

from bisync.testing.faults import ANYWHERE, KINDS
from bisync.testing.workloads import WORKLOADS

TEXT = (pathlib.Path(__file__).parents[2] / "docs" / "testing.md").read_text()
EXAMPLES = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


@pytest.mark.parametrize("example", EXAMPLES, ids=range(len(EXAMPLES)))
def test_what_the_examples_import_is_there(example: str) -> None:
    exec("\n".join(line for line in example.splitlines() if re.match(r"(from|import) ", line)), {})
    compile(example.replace("commands): ...", "commands): pass"), "docs/testing.md", "exec")


def test_the_simulated_pair_does_as_it_is_shown() -> None:
    (example,) = [text for text in EXAMPLES if "SimulatedPair" in text]
    exec(example, {})


def test_a_plan_prints_as_it_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = [text for text in EXAMPLES if "print(plan)" in text]
    exec(example[: example.index("plan = FaultPlan.parse")], {})
    (shown,) = re.findall(r"print\(plan\) +# (.*)", example)
    assert capsys.readouterr().out == f"{shown}\n"


def test_the_tables_are_complete() -> None:
    for name in (*WORKLOADS, *(kind.name for kind in KINDS)):
        assert f"`{name}`" in TEXT, name
    table = TEXT[TEXT.index("| kind | what happens") :]
    for kind in KINDS:
        (row,) = re.findall(rf"^\| `{kind.name}` \|.*$", table, re.MULTILINE)
        assert ("a local server" in row) == (kind.name not in ANYWHERE)

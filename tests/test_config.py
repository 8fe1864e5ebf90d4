"""The job file: what is read from it, and every mistake with its place."""

import pathlib
import re

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bisync import config
from bisync.config import (
    Commands,
    Conflicts,
    Engine,
    FullCopy,
    Job,
    JobTable,
    KeyPolicy,
    Limits,
    Objects,
    SiteTable,
    load_job,
)
from bisync.core.patterns import Scope
from bisync.errors import JobFileError

ROOT = pathlib.Path(__file__).parents[1]
EXAMPLE = ROOT / "deploy" / "job.example.toml"
MANUAL = ROOT / "docs" / "job-file.md"
TABLES = {
    **{JobTable: "## The job", SiteTable: "## `[sites.<name>]`", FullCopy: "## `[full_copy]`"},
    **{Objects: "## `[objects]`", Conflicts: "## `[conflicts]`", KeyPolicy: "### `[[conflicts.rules]]`"},
    **{Commands: "## `[commands]`", Limits: "## `[limits]`", Engine: "## `[engine]`"},
}
"""Each with its heading in the manual."""
OPTIONS = [(cls, a) for cls in TABLES for a in attrs.fields(cls)]

HEAD = 'name = "orders"\ntopology = "bidirectional"\n'
SITES = '[sites.east]\nurl = "redis://127.0.0.1:7001"\n[sites.west]\nurl = "redis://:hush@127.0.0.1:7002"\n'


def load(folder: pathlib.Path, text: str | bytes) -> Job:
    file = folder / "orders.toml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return load_job(file)


def mistakes(folder: pathlib.Path, text: str | bytes) -> list[str]:
    with pytest.raises(JobFileError) as caught:
        load(folder, text)
    assert caught.value.exit_code == 2
    assert caught.value.__cause__ is None and caught.value.__suppress_context__ or caught.value.__context__ is None
    assert "hush" not in str(caught.value)
    return list(caught.value.mistakes)


def test_least_job_file_gets_every_default(tmp_path: pathlib.Path) -> None:
    job = load(tmp_path, HEAD + SITES)
    assert (job.name, job.topology) == ("orders", "bidirectional")
    assert [s.name for s in job.sites] == ["east", "west"] and job.sites == (job.source, job.target)
    assert job.source.endpoint.address == "127.0.0.1:7001"
    assert job.target.endpoint.password is not None and job.target.endpoint.password.reveal() == "hush"
    assert job.site("west") is job.target
    assert job.path == tmp_path / "orders.toml"
    assert job.store == tmp_path / "orders.db"
    assert job.journal_folder == tmp_path / "orders.journal"
    assert job.objects == Scope() and job.objects.everything
    assert (job.full_copy, job.conflicts, job.commands, job.engine) == (FullCopy(), Conflicts(), Commands(), Engine())
    assert job.limits == Limits()
    assert "hush" not in repr(job)
    with pytest.raises(KeyError):
        job.site("north")


def test_the_first_site_of_the_file_is_the_source(tmp_path: pathlib.Path) -> None:
    east, west = SITES.split("[sites.west]")
    job = load(tmp_path, HEAD + "[sites.west]" + west + east)
    assert (job.source.name, job.target.name) == ("west", "east")


def test_every_option_can_be_set(tmp_path: pathlib.Path) -> None:
    text = (
        HEAD.replace("bidirectional", "one-way")
        + 'store = "state/o.sqlite"\n'
        + SITES
        + '[full_copy]\ntarget_not_empty = "overwrite"\n'
        + '[objects]\ndatabases = { 0 = 0, 3 = 5 }\ninclude = ["order:*", "é"]\nexclude = ["tmp:*"]\n'
        + '[conflicts]\npolicy = "prefer:east"\nkeep_days = 1\nkeep_entries = 2\nkeep_bytes = 1_048_577\n'
        + "value_bytes = 0\nrebuild_bytes = 65_536\n"
        + '[[conflicts.rules]]\nkeys = ["a:*", "é"]\npolicy = "prefer:west"\n'
        + '[[conflicts.rules]]\nkeys = ["b"]\npolicy = "last-writer"\n'
        + '[commands]\nflush = "stop"\nswapdb = "drop"\npublish = "drop"\nfunction = "stop"\n'
        + '[engine]\nheartbeat_ms = 0\nbatch_commands = 1\nbatch_bytes = 1024\non_refused = "quarantine"\n'
        + 'journal = "memory"\njournal_bytes = 1_048_576\nqueue_bytes = 65536\npending_bytes = 65537\n'
        + "checkpoint_every_ms = 100\nretry_pause_ms_max = 10\nconnect_timeout_ms = 10\nallow_eviction = true\n"
    )
    job = load(tmp_path, text)
    assert job.topology == "one-way"
    assert job.store == tmp_path / "state" / "o.sqlite"
    assert job.journal_folder == tmp_path / "state" / "o.sqlite.orders.journal"
    assert job.full_copy == FullCopy("overwrite")
    assert job.objects == Scope({0: 0, 3: 5}, (b"order:*", "é".encode()), (b"tmp:*",))
    rules = (KeyPolicy(("a:*", "é"), "prefer:west"), KeyPolicy(("b",), "last-writer"))
    assert job.conflicts == Conflicts("prefer:east", rules, 1, 2, (1 << 20) + 1, 0, 1 << 16)
    assert job.conflicts.preferred == "east" and Conflicts().preferred is None
    assert job.conflicts.policies == (((b"a:*", "é".encode()), "west"), ((b"b",), "last-writer"))
    assert job.commands == Commands("stop", "drop", "drop", "stop")
    assert job.engine == Engine(
        *(0, 1, 1024, "quarantine", "memory", 1 << 20, 1 << 16, (1 << 16) + 1, 100, 10, 10, True)
    )


def test_store_may_be_absolute_and_the_job_path_relative(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/ann")
    assert load(tmp_path, f'{HEAD}store = "/var/lib/o.db"\n{SITES}').store == pathlib.Path("/var/lib/o.db")
    assert load(tmp_path, f'{HEAD}store = "~/o.db"\n{SITES}').store == pathlib.Path("/home/ann/o.db")
    load(tmp_path, HEAD + SITES)
    monkeypatch.chdir(tmp_path)
    assert load_job("orders.toml").store == tmp_path / "orders.db"


def test_a_byte_order_mark_is_no_mistake(tmp_path: pathlib.Path) -> None:
    assert load(tmp_path, b"\xef\xbb\xbf" + (HEAD + SITES).encode()).name == "orders"


WRONG = [
    # text that replaces the whole file, or follows a good one; the beginnings of its mistakes
    ("", ["name: missing; expected a name such as", "topology: missing; expected 'one-way'", "sites: missing"]),
    (SITES, ["name: missing", "topology: missing"]),
    (HEAD, ["sites: missing; expected two tables, such as [sites.east]"]),
    (
        f"{HEAD}sites = 3\n",
        ["sites: expected two tables, such as [sites.east] and [sites.west], each with a url, not a n"],
    ),
    (f"{HEAD}[sites]\n", ["sites: expected two tables, such as [sites.east] and [sites.west], each with a url, not 0"]),
    (f"{HEAD}{SITES.split('[sites.west]')[0]}", ["sites: expected two tables"]),
    (f'{HEAD}{SITES}[sites.north]\nurl = "redis://n"\n', ["sites: expected two tables"]),
    (f'{HEAD}{SITES.replace("west", "West")}', ["sites.West: expected a site's name of at most 32"]),
    (f"{HEAD}{SITES.replace('sites.west', 'sites.' + 'w' * 33)}", [f"sites.{'w' * 33}: expected a site's name"]),
    (f'{HEAD}{SITES.replace("sites.west", "sites.")}', ["it is not TOML: "]),
    (
        f'{HEAD}{SITES.replace("url", "ulr", 1)}',
        ["sites.east.url: missing; expected", "sites.east.ulr: unknown; known here: url"],
    ),
    (f'{HEAD}{SITES}password = "hush"\n', ["sites.west.password: unknown; known here: url"]),
    (
        f'{HEAD}[sites]\neast = "hush"\nwest = 3\n',
        ["sites.east: expected a table with url, password_env, password_file, ca_file", "sites.west: expected"],
    ),
    (
        f'{HEAD}{SITES.replace("7002", "7001")}',
        ["sites.west.url = 'redis://***@127.0.0.1:7001': expected another server"],
    ),
    (
        f'{HEAD}[sites.a]\nurl = "redis://H"\n[sites.b]\nurl = "redis://h:6379"\n',
        ["sites.b.url = 'redis://h:6379': expected anot"],
    ),
    (f'{HEAD}{SITES.replace("127.0.0.1:7002", "")}', ["sites.west.url = 'redis://***@': no host"]),
    (
        f'{HEAD}{SITES.replace(":hush@", "ann:hu/hush@")}',
        ["sites.west.url = 'redis://***@127.0.0.1:7002': in a user or"],
    ),
    (
        f'{HEAD}{SITES.replace("redis://:hush@127.0.0.1:7002", "ann:hush")}',
        ["sites.west.url = 'ann:***': expected \"redis://"],
    ),
    (
        f'{HEAD}[sites."redis://:hush@x"]\nurl = 3\n{SITES}',
        ["sites.'redis://***@x': expected", "sites.'redis://***@x'.url = 3: ", "sites: "],
    ),
    (f"{HEAD}store = 3\n{SITES}", ["store = 3: expected the path of a file"]),
    (f'{HEAD}store = ""\n{SITES}', ["store = '': expected the path of a file"]),
    (f'{HEAD}store = "orders.toml"\n{SITES}', ["store = 'orders.toml': expected another file than the job file"]),
    (f'{HEAD}store = "."\n{SITES}', ["store = '.': expected a file, not a folder"]),
    (f'{HEAD}store = "x/"\n{SITES}', ["store = 'x/': expected a file, not a folder"]),
    (f'{HEAD}store = "x.journal"\n{SITES}', ["store = 'x.journal': expected another ending"]),
    (f'{HEAD}store = "a\\u0000b"\n{SITES}', ["store = 'a\\x00b': expected the path of a file"]),
    (
        f'name = "Orders!"\ntopology = "x"\n{SITES}',
        ["name = 'Orders!': expected a name", "topology = 'x': expected 'one-way' or"],
    ),
    (f'name = "{"o" * 65}"\ntopology = "one-way"\n{SITES}', ["name = "]),
    (f'name = "o\\n"\ntopology = "one-way"\n{SITES}', ["name = "]),
    (f"name = []\ntopology = 2024-01-01\n{SITES}", ["name = an array: expected", "topology = 2024-01-01: expected"]),
    (f"engin = 1\n{HEAD}{SITES}", ["engin: unknown; known here: name, topology, sites, store, full_copy"]),
    (f"engine = 1\n{HEAD}{SITES}", ["engine: expected a table with heartbeat_ms, batch_commands"]),
    (
        f'name = "o"\ntopology = "one-way"\n{SITES}[full_copy]\ntarget_not_empty = "reconcile"\non_gap = "reconcile"',
        [
            "full_copy.target_not_empty = 'reconcile': expected 'refuse' or",
            "full_copy.on_gap = 'reconcile': expected 'stop",
        ],
    ),
]
WRONG_TABLES = [
    (
        '[full_copy]\ntarget_not_empty = "merge"\non_gap = "overwrite"',
        [
            "full_copy.target_not_empty = 'merge': expected",
            "full_copy.on_gap = 'overwrite': expected 'stop', 'full' or",
        ],
    ),
    (
        '[full_copy]\ntarget_not_empty = "overwrit"',
        ["full_copy.target_not_empty = 'overwrit': expected 'refuse', 'overwr"],
    ),
    (
        "[objects]\ndatabases = { a = 0, 01 = 1 }",
        ["objects.databases.a: expected the number", "objects.databases.01: ex"],
    ),
    ("[objects]\ndatabases = { -1 = 0, 2147483648 = 1 }", ["objects.databases.-1: ", "objects.databases.2147483648: "]),
    (
        "[objects]\ndatabases = { 0 = -1, 1 = true }",
        ["objects.databases.0 = -1: exp", "objects.databases.1 = true: expected"],
    ),
    (
        "[objects]\ndatabases = { 0 = 1, 3 = 1 }",
        ["objects.databases: expected a different target for each database, but 0 and 3 b"],
    ),
    ("[objects]\ndatabases = {}", ["objects.databases: expected at least one database"]),
    ("[objects]\ndatabases = [0]", ["objects.databases: expected a table such as { 0 = 0, 3 = 5 }, not an array"]),
    ('[objects]\ninclude = "a"', ["objects.include = 'a': expected an array of glob patterns"]),
    ("[objects]\ninclude = []", ["objects.include = an array: expected at least one pattern"]),
    (
        '[objects]\nexclude = ["a", "", 3]',
        ["objects.exclude[1] = '': expected a glob", "objects.exclude[2] = 3: expected a glo"],
    ),
    (f'[objects]\nexclude = ["{"é" * 513}"]', ["objects.exclude[0] = "]),
    (
        f"[objects]\nexclude = {['a'] * 1001}",
        ["objects.exclude = an array: expected at most 1,000 patterns, not 1,001"],
    ),
    ("[conflicts]\npolcy = 3", ["conflicts.polcy: unknown; known here: policy, rules, keep_days, keep_entries, keep"]),
    (
        '[conflicts]\npolicy = "lastwriter"',
        ["conflicts.policy = 'lastwriter': expected 'last-writer' or 'prefer:<site>'; did"],
    ),
    (
        '[conflicts]\npolicy = "prefer:north"',
        ["conflicts.policy = 'prefer:north': expected a site of this job: 'prefer:east'"],
    ),
    ("[conflicts]\npolicy = 1", ["conflicts.policy = 1: expected 'last-writer'"]),
    (
        '[conflicts]\npolicy = "prefer:eats"',
        ["conflicts.policy = 'prefer:eats': expected a site of this job: 'prefer:east' or 'prefer:west'; did you mean"],
    ),
    ("[conflicts]\nkeep_days = 0", ["conflicts.keep_days = 0: expected a whole number of days from 1 to 36,500"]),
    (
        "[conflicts]\nkeep_entries = -1\nkeep_bytes = 1048575\nvalue_bytes = 67108865\nrebuild_bytes = 65535",
        [
            "conflicts.keep_entries = -1: expected a whole number of entries from 1 to ",
            "conflicts.keep_bytes = 1048575: expected a whole number of bytes from 1,048,576",
            "conflicts.value_bytes = 67108865: expected a whole number of bytes from 1 to 67,108,864, or 0: keep no",
            "conflicts.rebuild_bytes = 65535: expected a whole number of bytes from 65,536 to 536,870,912",
        ],
    ),
    (
        "[conflicts]\nkeep_bytes = 1048576\nvalue_bytes = 1048577",
        ["conflicts.value_bytes = 1048577: expected at most keep_bytes, which is 1,048,576"],
    ),
    (
        "[conflicts]\nrules = 3",
        ["conflicts.rules: expected tables [[conflicts.rules]], each with keys and a policy, n"],
    ),
    ('[conflicts.rules]\nkeys = ["a"]', ["conflicts.rules: expected tables [[conflicts.rules]], each with keys and a"]),
    (
        "[[conflicts.rules]]\n[[conflicts.rules]]\nkeys = []\npolcy = 3",
        [
            "conflicts.rules[0].keys: missing; expected an array of glob patterns",
            "conflicts.rules[0].policy: missing; expected 'last-writer' or 'prefer:<site>'",
            "conflicts.rules[1].keys = an array: expected at least one pattern, or no such rule",
            "conflicts.rules[1].policy: missing; expected 'last-writer'",
            "conflicts.rules[1].polcy: unknown; known here: keys, policy; did you mean 'policy'?",
        ],
    ),
    (
        '[[conflicts.rules]]\nkeys = ["a", "", 3]\npolicy = "prefr:east"\n'
        '[[conflicts.rules]]\nkeys = "b"\npolicy = "prefer:wst"',
        [
            "conflicts.rules[0].keys[1] = '': expected a glob pattern of 1 to",
            "conflicts.rules[0].keys[2] = 3: expected a glob pattern",
            "conflicts.rules[0].policy = 'prefr:east': expected 'last-writer' or 'prefer:<site>'",
            "conflicts.rules[1].keys = 'b': expected an array of glob patterns",
            "conflicts.rules[1].policy = 'prefer:wst': expected a site of this job: 'prefer:east' or 'prefer:west'; ",
        ],
    ),
    (
        '[[conflicts.rules]]\nkeys = ["a", "b"]\npolicy = "prefer:east"\n'
        '[[conflicts.rules]]\nkeys = ["c", "b"]\npolicy = "last-writer"',
        ["conflicts.rules[1].keys[1] = 'b': expected each pattern in one rule only; conflicts.rules[0] has it too"],
    ),
    (
        "".join(f'[[conflicts.rules]]\nkeys = ["{n}"]\npolicy = "last-writer"\n' for n in range(101)),
        ["conflicts.rules = an array: expected at most 100 rules, not 101"],
    ),
    (
        "".join(
            f'[[conflicts.rules]]\nkeys = {[f"{n}:{m}" for m in range(501)]}\npolicy = "last-writer"\n' for n in (1, 2)
        ),
        ["conflicts.rules = an array: expected at most 1,000 patterns in all rules together, not 1,002"],
    ),
    ('[engine]\nallow_eviction = "yes"', ["engine.allow_eviction = 'yes': expected true or false, without quotes"]),
    ("[engine]\nallow_eviction = 1", ["engine.allow_eviction = 1: expected true or false"]),
    (
        '[commands]\nflush = "pas"\nswapdb = []',
        ["commands.flush = 'pas': expected 'pass', 'drop' or 's", "commands.swapdb = an array: "],
    ),
    (
        "[engine]\nbatch_commands = 0",
        ["engine.batch_commands = 0: expected a whole number of commands from 1 to 100,000"],
    ),
    ("[engine]\nbatch_commands = 100001", ["engine.batch_commands = 100001: expected"]),
    (
        "[engine]\nheartbeat_ms = 5",
        ["engine.heartbeat_ms = 5: expected a whole number of ms from 10 to 3,600,000, or 0: no heartb"],
    ),
    ("[engine]\nheartbeat_ms = true", ["engine.heartbeat_ms = true: expected a whole number"]),
    ("[engine]\nheartbeat_ms = 1e3", ["engine.heartbeat_ms = 1000.0: expected a whole number"]),
    (f"[engine]\nheartbeat_ms = 0x{'f' * 5000}", ["engine.heartbeat_ms = a number of very many digits: expected"]),
    ('[engine]\njournal = "dsk"', ["engine.journal = 'dsk': expected 'disk' or 'memory'; did you mean 'disk'?"]),
    ('[engine]\non_refused = "ann:hush@h"', ["engine.on_refused = '***@h': expected 'stop' or 'quarantine'"]),
    (f'[engine]\njournal = "{"x" * 500}"', [f"engine.journal = '{'x' * 79}...: expected"]),
]
WRONG += [(f"{HEAD}{SITES}{text}\n", begins) for text, begins in WRONG_TABLES]


@pytest.mark.parametrize(("text", "begins"), WRONG, ids=range(len(WRONG)))
def test_mistake_is_told_with_place_and_value(tmp_path: pathlib.Path, text: str, begins: list[str]) -> None:
    told = mistakes(tmp_path, text)
    assert [m[: len(b)] for m, b in zip(told, begins, strict=True)] == begins


def test_all_mistakes_are_told_at_once(tmp_path: pathlib.Path) -> None:
    text = f'nmae = "x"\n{HEAD.replace("bidirectional", "both")}store = 3\n{SITES.replace("7002", "x")}'
    tables = ['[full_copy]\ntarget_not_empty = "x"', "[objects]\ndatabases = { a = 0, 01 = 1 }"]
    tables += ['[conflicts]\npolicy = "prefer:north"', '[[conflicts.rules]]\nkeys = 1\npolicy = "prefer:north"']
    text += "\n".join([*tables, "[engine]\nbatch_commands = 0\n"])
    places = [re.split("[ :]", m)[0] for m in mistakes(tmp_path, text)]
    assert sorted(places) == sorted(
        "nmae topology store sites.west.url full_copy.target_not_empty objects.databases.a objects.databases.01"
        " conflicts.policy conflicts.rules[0].keys conflicts.rules[0].policy engine.batch_commands".split()
    )


def test_broken_toml_is_one_mistake_with_its_line(tmp_path: pathlib.Path) -> None:
    assert mistakes(tmp_path, 'name = "a"\nurl "redis://:hush@h"\n') == [
        "it is not TOML: Expected '=' after a key in a key/value pair (at line 2, column 5)"
    ]
    assert len(mistakes(tmp_path, "a = " + "[" * 5000)) == 1
    assert len(mistakes(tmp_path, "a = " + "9" * 5000)) == 1


def test_file_that_cannot_be_used_is_one_mistake(tmp_path: pathlib.Path) -> None:
    assert mistakes(tmp_path, b'name = "\xff"') == ["byte 8 is not UTF-8; expected a text file in UTF-8"]
    assert mistakes(tmp_path, b"#" * ((1 << 20) + 1)) == ["it is longer than 1,048,576 bytes; expected a job file"]
    file = tmp_path / "x"
    for path, told in [
        (file, "there is no such file"),
        (tmp_path, "this is a folder; expected the job file in it"),
        (tmp_path / "orders.toml" / "x", "it cannot be read: Not a directory"),
        (pathlib.Path("a\0b"), "it cannot be read: embedded null byte"),
    ]:
        with pytest.raises(JobFileError) as caught:
            load_job(path)
        assert caught.value.mistakes == (told,) and str(path) in str(caught.value)


VALUES = st.recursive(
    st.sampled_from(["true", "3", "-1", "1.5", '""', '"x"', '"redis://:hush@h"', "2024-01-01", '"prefer:east"', "nan"]),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda items: f"[{', '.join(items)}]"),
        st.dictionaries(st.sampled_from(["url", "3", "policy", "x", '"a b"', '""']), inner, max_size=3).map(
            lambda d: "{" + ", ".join(f"{k} = {v}" for k, v in d.items()) + "}"
        ),
    ),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from([*(a.name for a in attrs.fields(JobTable)), "x"]), VALUES))
def test_any_values_are_a_job_or_mistakes(tmp_path_factory: pytest.TempPathFactory, document: dict[str, str]) -> None:
    file = tmp_path_factory.getbasetemp() / "any.toml"
    file.write_text("\n".join(f"{k} = {v}" for k, v in document.items()))
    with pytest.raises(JobFileError) as caught:  # no drawn name of a site is one
        load_job(file)
    assert caught.value.mistakes and "hush" not in str(caught.value)


def test_example_loads_and_shows_the_defaults(tmp_path: pathlib.Path) -> None:
    job = load(tmp_path, EXAMPLE.read_bytes())
    assert job.objects == Scope()
    assert job.store == tmp_path / "orders.db" == load(tmp_path, HEAD + SITES).store
    assert (job.full_copy, job.conflicts, job.commands, job.engine) == (FullCopy(), Conflicts(), Commands(), Engine())
    assert job.limits == Limits()


def test_example_loads_with_its_commented_options_too(tmp_path: pathlib.Path) -> None:
    # (the files and variables of the sites are not there: `test_site_options` loads such)
    of_sites = "|".join(a.name for a in attrs.fields(SiteTable))
    text = re.sub(rf"(?m)^# (?!(?:{of_sites}) )([a-z_]+ = [\[{{\"0-9]|\[\[)", r"\1", EXAMPLE.read_text())
    job = load(tmp_path, text)
    assert job.objects == Scope({0: 0, 3: 5}, (b"order:*",))
    assert job.conflicts.rules == (KeyPolicy(("session:*", "cart:*"), "prefer:east"),)


def manual_of(cls: type) -> str:
    """The section of the manual about a table."""
    text = MANUAL.read_text()
    begin = text.index(f"\n{TABLES[cls]}\n") + 1
    following = re.search(r"\n##+ ", text[begin:])
    return text[begin : begin + following.start() if following else len(text)]


@pytest.mark.parametrize(("cls", "option"), OPTIONS, ids=[f"{c.__name__}.{a.name}" for c, a in OPTIONS])
def test_every_option_is_in_the_example_and_in_the_manual(cls: type, option: "attrs.Attribute[object]") -> None:
    example = EXAMPLE.read_text()
    if cls is JobTable and option.metadata.get("right") is None or option.name in ("sites", "rules"):
        assert re.search(rf"(?m)^(# )?\[+(conflicts\.)?{option.name}[.\]]", example)
        assert re.search(rf"(?m)^##+ `\[+(conflicts\.)?{option.name}[.\]]", MANUAL.read_text())
        return
    assert re.search(rf"(?m)^(# )?{option.name} = ", example)
    (row,) = re.findall(rf"(?m)^\| `{option.name}` \|.*$", manual_of(cls))
    if isinstance(option.default, bool):
        assert f"`{str(option.default).lower()}`" in row
    elif isinstance(option.default, (int, str)):
        assert f"`{option.default}`" in row or f"| {option.default} |" in row
    if option.default is attrs.NOTHING:
        assert row.endswith("| required |")


def test_manual_has_no_option_that_does_not_exist() -> None:
    rows = r"(?m)^\| `([^`]+)` \|"
    for cls in TABLES:
        assert {*re.findall(rows, manual_of(cls))} <= {a.name for a in attrs.fields(cls)}
    assert sum(len(re.findall(rows, manual_of(cls))) for cls in TABLES) == len(re.findall(rows, MANUAL.read_text()))


@pytest.mark.parametrize(
    ("cls", "table", "count"), [(Engine, "engine", 9), (Conflicts, "conflicts", 5), (Limits, "limits", 4)]
)
def test_manual_says_the_bounds_that_are_checked(tmp_path: pathlib.Path, cls: type, table: str, count: int) -> None:
    rows = re.findall(r"(?m)^\| `(\w+)` \|.*\| (\d+), (\d+)(, or 0)? \|$", manual_of(cls))
    assert len(rows) == count
    for name, low, high, zero in rows:

        def with_value(value: int, name: str = name) -> str:
            return f"{HEAD}{SITES}[{table}]\n{name} = {value}\n"

        for bound, beyond in ((int(low), -1), (int(high), 1)):
            assert getattr(getattr(load(tmp_path, with_value(bound)), table), name) == bound
            if bound + beyond or not zero:
                assert len(mistakes(tmp_path, with_value(bound + beyond))) == 1
        if zero:
            load(tmp_path, with_value(0))


def test_public_names_are_those_of_the_module() -> None:
    assert all(hasattr(config, name) for name in config.__all__)

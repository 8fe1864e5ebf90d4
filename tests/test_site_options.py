"""The options of a site about passwords and TLS: every mistake with its place, and no secret in it."""

import os
import pathlib

import pytest

from bisync.config import Job, load_job
from bisync.endpoint import Login, Secret
from bisync.errors import JobFileError, SiteError
from bisync.passwords import Kept
from bisync.tls import Tls
from tests.certificates import Authority, Certificate

HEAD = 'name = "orders"\ntopology = "bidirectional"\n'
WEST = '[sites.west]\nurl = "redis://127.0.0.1:7002"\n'


def load(folder: pathlib.Path, east: str, *, url: str = "rediss://h", connects: bool = True) -> Job:
    file = folder / "orders.toml"
    file.write_text(f'{HEAD}[sites.east]\nurl = "{url}"\n{east}\n{WEST}')
    return load_job(file, connects=connects)


def mistakes(folder: pathlib.Path, east: str, *, url: str = "rediss://h") -> list[str]:
    with pytest.raises(JobFileError) as caught:
        load(folder, east, url=url)
    assert "hush" not in str(caught.value)
    return [m.removeprefix("sites.east.") for m in caught.value.mistakes]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Authority, Certificate, Certificate]:
    """A CA, a certificate, and one whose key is encrypted."""
    authority = Authority(tmp_path_factory.mktemp("certificates"))
    return authority, authority.issue("bisync"), authority.issue("locked", password="hush")


Made = tuple[Authority, Certificate, Certificate]


def test_all_options_are_read_and_their_paths_begin_at_the_job_file(
    tmp_path: pathlib.Path, made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority, _, locked = made
    for name, path in (("ca.pem", authority.cert), ("c.pem", locked.cert), ("c.key", locked.key)):
        (tmp_path / name).write_bytes(path.read_bytes())
    (tmp_path / "p").write_text("ann:hush\n")
    monkeypatch.setenv("KEY", "hush")
    options = 'password_file = "p"\nca_file = "ca.pem"\ncert_file = "c.pem"\nkey_file = "c.key"\n'
    options += 'key_password_env = "KEY"\ncheck_name = false\nserver_name = "redis.example.com"'
    endpoint = load(tmp_path, options).source.endpoint
    assert endpoint.kept == Kept("password_file", path=tmp_path / "p")
    assert endpoint.login() == Login("ann", Secret("hush"))
    files = [tmp_path / name for name in ("ca.pem", "c.pem", "c.key")]
    assert endpoint.tls == Tls(*files, Kept("key_password_env", "KEY"), False, "redis.example.com")
    assert load(tmp_path, "").source.endpoint.tls == Tls()
    assert load(tmp_path, "", url="redis://h").source.endpoint.tls is None
    assert "hush" not in repr(load(tmp_path, options))


def test_key_and_certificate_may_be_in_one_file(tmp_path: pathlib.Path, made: Made) -> None:
    (tmp_path / "both.pem").write_bytes(made[1].cert.read_bytes() + made[1].key.read_bytes())
    assert load(tmp_path, 'cert_file = "both.pem"').source.endpoint.tls == Tls(cert_file=tmp_path / "both.pem")


WRONG = [
    # url, options, the beginnings of the mistakes
    ("redis://h", "password_env = 3", ["password_env: expected the name of a variable"]),
    ("redis://h", 'password_env = "hush!"', ["password_env: expected the name of a variable"]),
    ("redis://h", 'password_env = "hush"', ["password_env: there is no such variable in the environment; set"]),
    ("redis://h", "password_file = 3", ["password_file: expected the path of a file"]),
    ("redis://h", 'password_file = "hush"', ["password_file: there is no such file; a relative path begins at"]),
    ("redis://h", 'password_file = "/"', ["password_file: the file cannot be read: Is a directory"]),
    ("redis://h", 'password_file = "empty"', ["password_file: what is there is empty"]),
    ("redis://h", 'password_env = "P"\npassword_file = "p"', ["password_file: expected one of password_env and pass"]),
    ("redis://:hush@h", 'password_env = "P"', ["password_env: the url has a password too; expected it in one place"]),
    ("redis://ann@h", "", ["url = 'redis://***@h': a user without a password; expected"]),
    ("redis://h", 'password = "hush"', ["password: unknown; known here: url, password_env, password_file"]),
    ("redis://h", 'ca_file = "ca.pem"', ["ca_file: expected only beside a url that begins with rediss://"]),
    (
        "redis://h",
        'cert_file = "c"\ncheck_name = true\nserver_name = "h"',
        ["cert_file: expected only beside", "check_name: expected only beside", "server_name: expected only beside"],
    ),
    ("rediss://h", 'key_file = "c"', ["key_file: expected only beside a cert_file"]),
    ("rediss://h", 'check_name = "no"', ["check_name = 'no': expected true or false"]),
    ("rediss://h", 'server_name = "a b"', ["server_name = 'a b': expected the name that the certificate is for"]),
    ("rediss://h", "server_name = 3", ["server_name = 3: expected the name"]),
    ("rediss://h", 'ca_file = "none.pem"', ["ca_file = 'none.pem': there is no such file"]),
    ("rediss://h", 'ca_file = "empty"', ["ca_file = 'empty': there is no certificate in it; expected PEM"]),
    ("rediss://h", 'ca_file = "damaged.pem"', ["ca_file = 'damaged.pem': its certificates are damaged"]),
    ("rediss://h", 'cert_file = "c.pem"', ["cert_file = 'c.pem': there is no private key in it; name the private"]),
    ("rediss://h", 'cert_file = "c.pem"\nkey_file = "ca.pem"', ["key_file = 'ca.pem': there is no private key in it"]),
    ("rediss://h", 'cert_file = "c.pem"\nkey_file = "no"', ["key_file = 'no': there is no such file"]),
    (
        "rediss://h",
        'cert_file = "c.pem"\nkey_file = "locked.key"\nkey_password_env = "KEY"',
        ["key_file = 'locked.key': the private key belongs to another certificate"],
    ),
    (
        "rediss://h",
        'cert_file = "locked.pem"\nkey_file = "locked.key"',
        ["key_file = 'locked.key': the private key is encrypted; name its password in key_password_env"],
    ),
    (
        "rediss://h",
        'cert_file = "locked.pem"\nkey_file = "locked.key"\nkey_password_env = "P"',
        ["key_password_env: it is not the password of the private key"],
    ),
    (
        "rediss://h",
        'cert_file = "locked.pem"\nkey_file = "locked.key"\nkey_password_file = "none"',
        ["key_password_file: there is no such file"],
    ),
    (
        "rediss://ann@h",
        'password_file = "empty"\nca_file = "none.pem"\nkey_file = "c"\nx = 1',
        ["x: unknown", "key_file: expected only", "password_file: what is there is empty", "ca_file = 'none.pem'"],
    ),
]


@pytest.mark.parametrize(("url", "options", "begins"), WRONG, ids=range(len(WRONG)))
def test_mistake_is_told_with_its_place_and_no_secret(
    tmp_path: pathlib.Path, made: Made, monkeypatch: pytest.MonkeyPatch, url: str, options: str, begins: list[str]
) -> None:
    authority, plain, locked = made
    for name, path in (("ca.pem", authority.cert), ("c.pem", plain.cert)):
        (tmp_path / name).write_bytes(path.read_bytes())
    for name, path in (("locked.pem", locked.cert), ("locked.key", locked.key)):
        (tmp_path / name).write_bytes(path.read_bytes())
    (tmp_path / "empty").touch()
    (tmp_path / "p").write_text("secret")
    (tmp_path / "damaged.pem").write_text("-----BEGIN CERTIFICATE-----\nxx\n-----END CERTIFICATE-----\n")
    monkeypatch.setenv("P", "secret")
    monkeypatch.setenv("KEY", "hush")
    told = mistakes(tmp_path, options, url=url)
    assert [m[: len(b)] for m, b in zip(told, begins, strict=True)] == begins


def test_a_file_that_may_not_be_read_is_told(tmp_path: pathlib.Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may read every file")
    (tmp_path / "p").write_text("hush")
    (tmp_path / "p").chmod(0)
    assert "Permission denied; let the account" in mistakes(tmp_path, 'password_file = "p"')[0]


def test_what_needs_no_connection_does_not_look_at_files(tmp_path: pathlib.Path) -> None:
    job = load(tmp_path, 'password_file = "none"\nca_file = "none.pem"', connects=False)
    with pytest.raises(SiteError) as caught:
        job.source.login()
    assert "password_file: there is no such file" in str(caught.value)
    assert "Next: mend what sites.east.password_file names" in str(caught.value)

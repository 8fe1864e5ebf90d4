"""Whole jobs over TLS, with certificates on both sides; and each way in which TLS fails, told in one sentence."""

import pathlib
import time
from collections.abc import Callable

import pytest

from bisync.config import load_job
from bisync.precheck import precheck
from bisync.status import read_status
from bisync.testing.servers import LocalServer
from tests.certificates import Authority, Certificate, TlsServer
from tests.system.world import EngineProcess, World, bisync, wait_until

pytestmark = pytest.mark.slow

PASSWORD = "zq9-key-password"
QUICK = "[engine]\nretry_pause_ms_max = 200\n"


class TlsWorld(World):
    """Two sites that talk TLS only and want a client certificate, whose private key is encrypted."""

    def __init__(self, folder: pathlib.Path, *options: str) -> None:
        super().__init__(folder, tables=QUICK)
        self.authority = Authority(folder / "certificates")
        self.shown = self.authority.issue("server")
        self.mine = self.authority.issue("bisync", password=PASSWORD)
        for name in ("east", "west"):
            self.servers[name] = TlsServer(folder / name, self.authority, self.shown, *options, clients=True)
        self.east, self.west = self.servers["east"], self.servers["west"]
        (folder / "key.password").write_text(f"{PASSWORD}\n")
        (folder / "key.password").chmod(0o600)
        self.urls: dict[str, str] = {}
        self.tls = {
            "ca_file": str(self.authority.cert),
            "cert_file": str(self.mine.cert),
            "key_file": str(self.mine.key),
            "key_password_file": "key.password",
        }
        self.more: dict[str, dict[str, str]] = {"east": {}, "west": {}}

    def write_job_file(self) -> None:
        text = 'name = "orders"\ntopology = "bidirectional"\n'
        for name, server in self.servers.items():
            url = self.urls.get(name, server.url)
            options = {**self.tls, **self.more[name]} if url.startswith("rediss") else self.more[name]
            text += f'[sites.{name}]\nurl = "{url}"\n'
            text += "".join(f'{k} = "{v}"\n' if v != "false" else f"{k} = false\n" for k, v in options.items() if v)
        self.job_file.write_text(text + self._tables)
        self.job_file.chmod(0o600)

    def failed(self) -> list[str]:
        """What the precheck says failed."""
        return [f"{c.site}: {c.reason} Next: {c.remedy}" for c in precheck(self.job) if c.result == "failed"]


def test_a_job_runs_over_tls_and_every_command_works(tmp_path: pathlib.Path) -> None:
    with TlsWorld(tmp_path) as world:
        with world.east.client() as client:
            client.mset({f"old:{n}": "x" * 1000 for n in range(3000)})
        engine = world.synchronised_engine()
        world.start_writers(7)
        assert {c.result for c in precheck(world.job)} == {"ok"}
        wait_until(lambda: all(w.rounds > 20 for w in world.writers), "the writers have written")
        engine.kill()
        engine = world.synchronised_engine()
        world.stop_writers()
        world.wait_drained(engine)
        world.assert_written()
        world.assert_equal()
        for command in (["verify"], ["status"], ["conflicts"], ["wait", "--drained"]):
            done = bisync(*command[:1], world.job_file, *command[1:])
            assert done.returncode == 0, (command, done.stdout, done.stderr)
        engine.stop()
        assert bisync("reset", world.job_file, "--yes").returncode == 0
        checks = {(c.name, c.site): c for c in precheck(world.job)}
        assert checks["encryption", "east"].reason.startswith("TLSv1.3, TLS_")
        assert "valid for another 30 days" in checks["encryption", "east"].reason


def test_newer_writes_win_over_tls_too(tmp_path: pathlib.Path) -> None:
    """The dating of what comes in records: pairs of writes at both sites, each pair 20 ms apart."""
    with TlsWorld(tmp_path) as world:
        engine = world.synchronised_engine()
        rounds = 40
        with world.east.client() as east, world.west.client() as west:
            for n in range(rounds):
                first, second = (east, west) if n % 2 else (west, east)
                first.set(f"pair:{n}", "older")
                pause = engine.began_s + engine.seconds + 0.02
                wait_until(lambda pause=pause: engine.began_s + engine.seconds > pause, "20 ms have passed")
                second.set(f"pair:{n}", "newer")
            world.wait_drained(engine)
            assert [west.get(f"pair:{n}") for n in range(rounds)] == [b"newer"] * rounds
        world.assert_equal()
        engine.stop()


def test_tls_1_2_will_do_and_1_1_will_not(tmp_path: pathlib.Path) -> None:
    with TlsWorld(tmp_path, "--tls-protocols", "TLSv1.2") as world:
        engine = world.synchronised_engine()
        checks = {(c.name, c.site): c for c in precheck(world.job)}
        assert checks["encryption", "west"].reason.startswith("TLSv1.2, ")
        world.more["east"] = {"cert_file": "", "key_file": "", "key_password_file": ""}
        world.write_job_file()
        (told,) = world.failed()
        assert "wants a client certificate, and the job file names none" in told
        engine.stop()
        world.more["east"] = {}
        world.write_job_file()
        with world.east.client() as client:  # asked without TLS 1.1 on our side it must be the server that has no more
            client.config_set("tls-ciphers", "DEFAULT@SECLEVEL=0")
            client.config_set("tls-protocols", "TLSv1.1")
        (told,) = world.failed()
        assert "no version of TLS in common" in told and "tls-protocols" in told


Prepare = Callable[[TlsWorld], object]


def other_authority(world: TlsWorld) -> None:
    world.more["west"]["ca_file"] = str(Authority(world.folder / "other", "other").cert)


def no_authority(world: TlsWorld) -> None:
    world.more["west"]["ca_file"] = ""


def no_certificate(world: TlsWorld) -> None:
    world.more["west"] = {"cert_file": "", "key_file": "", "key_password_file": ""}


def show(certificate: Certificate) -> dict[str, str]:
    return {"cert_file": str(certificate.cert), "key_file": str(certificate.key), "key_password_file": ""}


def foreign_certificate(world: TlsWorld) -> None:
    world.more["west"] = show(Authority(world.folder / "other", "other").issue("bisync"))


def expired_certificate(world: TlsWorld) -> None:
    world.more["west"] = show(world.authority.issue("old", days=-1))


def expired_server(world: TlsWorld) -> None:
    restart(world, world.authority.issue("expired", days=-1))


def wrong_name(world: TlsWorld) -> None:
    restart(world, world.authority.issue("named", names="DNS:redis.example.com"))


def restart(world: TlsWorld, certificate: Certificate) -> None:
    assert isinstance(world.west, TlsServer)
    world.west.stop()
    world.west.shown = certificate
    world.west.start()


def plain_url(world: TlsWorld) -> None:
    world.urls["west"] = world.west.url.replace("rediss", "redis")


def plain_server(world: TlsWorld) -> None:
    world.west.stop()
    world.west = LocalServer(world.folder / "plain")
    world.west.start()
    world.servers["west"] = world.west
    world.urls["west"] = world.west.url.replace("redis", "rediss")


CASES: dict[str, tuple[Prepare, tuple[str, ...]]] = {
    "unknown CA": (other_authority, ("is signed by nobody whom bisync trusts", "add that CA's certificate")),
    "no CA": (no_authority, ("is signed by nobody whom bisync trusts", "name the certificate of that one in ca_file")),
    "no client certificate": (no_certificate, ("wants a client certificate", "set cert_file and key_file")),
    "foreign client certificate": (foreign_certificate, ("refuses the certificate that bisync shows", "tls-ca-cert")),
    "expired client certificate": (expired_certificate, ("refuses the certificate that bisync shows", "has not exp")),
    "expired server": (expired_server, ("has expired", "renew it on the server")),
    "wrong name": (wrong_name, ("is not for the name '127.0.0.1'", "server_name", "check_name = false")),
    "plain url": (plain_url, ("talks TLS, and the job file's url asks for plain", "write rediss://")),
    "plain server": (plain_server, ("talks plain Redis, and the job file's url asks for TLS", "or redis:// where")),
}


@pytest.mark.parametrize("case", CASES)
def test_a_job_that_cannot_begin_says_why(tmp_path: pathlib.Path, case: str) -> None:
    prepare, words = CASES[case]
    with TlsWorld(tmp_path) as world:
        prepare(world)
        world.write_job_file()
        (told,) = world.failed()
        assert told.startswith("west: ") and all(word in told for word in words), told
        done = bisync("run", world.job_file)
        assert done.returncode == 1 and "Traceback" not in done.stderr, done
        assert all(word in done.stderr for word in words), done.stderr
        for command in ("verify", "reset"):
            done = bisync(command, world.job_file, *(["--yes"] if command == "reset" else []))
            assert done.returncode != 0 and "Traceback" not in done.stderr and words[0] in done.stderr, done
        for path in (tmp_path / "orders.db", *tmp_path.glob("*.log")):
            assert not path.exists() or b"zq9-" not in path.read_bytes()


def test_a_name_may_be_given_or_not_checked(tmp_path: pathlib.Path) -> None:
    with TlsWorld(tmp_path) as world:
        wrong_name(world)
        world.more["west"] = {"server_name": "redis.example.com"}
        world.write_job_file()
        assert world.failed() == []
        world.more["west"] = {"check_name": "false"}
        world.write_job_file()
        checks = {(c.name, c.site): c for c in precheck(world.job)}
        assert checks["reachable", "west"].result == "ok"
        assert (
            checks["encryption", "west"].result == "warning"
            and "check_name = true" in checks["encryption", "west"].remedy
        )
        other_authority(world)
        world.write_job_file()
        assert "is signed by nobody" in world.failed()[0], "it is the name only that is not checked"


def test_files_that_others_can_read_are_told(tmp_path: pathlib.Path) -> None:
    with TlsWorld(tmp_path) as world:
        world.mine.key.chmod(0o644)
        (tmp_path / "key.password").chmod(0o604)
        checks = {(c.name, c.site): c for c in precheck(world.job)}
        found = checks["files", "east"]
        assert found.result == "warning" and "bisync.key (0644), key.password (0604)" in found.reason
        assert f"chmod 600 {world.mine.key}" in found.remedy


def reason(world: World) -> str:
    document = read_status(load_job(world.job_file, connects=False), int(time.time() * 1000))
    return f"{document['state']}: {document['reason']}"


def says(world: World, engine: EngineProcess, *words: str) -> None:
    wait_until(lambda: engine.check() and all(w in reason(world) for w in words), f"{words}; it is {reason(world)}")


def test_a_running_engine_takes_renewed_certificates(tmp_path: pathlib.Path) -> None:
    with TlsWorld(tmp_path) as world:
        engine = world.synchronised_engine()
        change(world, world.authority.issue("expired", days=-1))
        says(world, engine, "suspended", "the certificate of", "has expired")
        change(world, world.shown)
        says(world, engine, "synchronizing")
        # and our own: the files are replaced while it runs
        kept = world.mine.cert.read_bytes(), world.mine.key.read_bytes()
        old = world.authority.issue("old", days=-1, password=PASSWORD)
        world.mine.cert.write_bytes(old.cert.read_bytes())
        world.mine.key.write_bytes(old.key.read_bytes())
        change(world, world.shown)
        says(world, engine, "suspended", "refuses the certificate that bisync shows")
        world.mine.cert.write_bytes(kept[0])
        says(world, engine, "suspended", "key_file: the private key belongs to another certificate")
        assert bisync("status", world.job_file).returncode == 0, "which needs no connection, so no files"
        world.mine.key.write_bytes(kept[1])
        says(world, engine, "synchronizing")
        with world.west.client() as client:
            client.set("after", "1")
        world.wait_drained(engine)
        world.assert_equal()
        engine.stop()


def change(world: TlsWorld, certificate: Certificate) -> None:
    """West shows this certificate from now on, and hangs up on everybody."""
    with world.west.client() as client:
        files = ("tls-cert-file", str(certificate.cert), "tls-key-file", str(certificate.key))
        client.execute_command("CONFIG", "SET", *files)
        for kind in ("replica", "normal"):
            client.execute_command("CLIENT", "KILL", "TYPE", kind)

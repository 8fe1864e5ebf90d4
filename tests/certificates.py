"""Certificates for tests, made with the program `openssl`, and servers that talk TLS with them."""

import pathlib
import shutil
import subprocess

import pytest
import redis

from bisync.testing.servers import LocalServer

NAMES = "DNS:localhost,IP:127.0.0.1"
_NEW = ("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256")


class Authority:
    """A CA of our own, in a folder."""

    def __init__(self, folder: pathlib.Path, name: str = "ca") -> None:
        if shutil.which("openssl") is None:
            pytest.skip("no program openssl on this machine, which makes the certificates")
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.cert, self._key = folder, folder / f"{name}.pem", folder / f"{name}.key"
        _openssl(*_NEW, "-x509", "-nodes", "-subj", f"/CN={name}", "-keyout", self._key, "-out", self.cert)

    def issue(self, name: str, names: str = NAMES, days: int = 30, password: str = "") -> "Certificate":
        """One that is valid for so many days (-1: expired); its key is encrypted where there is a password."""
        made = Certificate(self.folder / f"{name}.pem", self.folder / f"{name}.key")
        request, extensions = self.folder / f"{name}.csr", self.folder / f"{name}.ext"
        extensions.write_text(f"subjectAltName={names}\n")
        locked = ("-passout", f"pass:{password}") if password else ("-nodes",)
        _openssl(*_NEW, *locked, "-subj", f"/CN={name}", "-keyout", made.key, "-out", request)
        signed = ("-CA", self.cert, "-CAkey", self._key, "-CAcreateserial", "-days", days, "-extfile", extensions)
        _openssl("x509", "-req", "-in", request, *signed, "-out", made.cert)
        return made


class Certificate:
    """A certificate and its private key, as files."""

    def __init__(self, cert: pathlib.Path, key: pathlib.Path) -> None:
        self.cert, self.key = cert, key


def _openssl(*words: object) -> None:
    subprocess.run(["openssl", *map(str, words)], check=True, capture_output=True, stdin=subprocess.DEVNULL)


class TlsServer(LocalServer):
    """A server that talks TLS only. `clients`: must clients show a certificate of the authority?"""

    def __init__(
        self, folder: pathlib.Path, authority: Authority, shown: Certificate, *options: str, clients: bool = False
    ) -> None:
        super().__init__(folder)
        self.authority, self.shown, self._more, self._clients = authority, shown, options, clients
        self._tester = authority.issue(f"tester-of-{folder.name}")

    def start(self) -> "TlsServer":
        files = ("--tls-cert-file", str(self.shown.cert), "--tls-key-file", str(self.shown.key))
        trust = ("--tls-ca-cert-file", str(self.authority.cert), "--tls-auth-clients", "yes" if self._clients else "no")
        self.options = ("--port", "0", "--tls-port", str(self.port), *files, *trust, *self._more)
        super().start()
        return self

    def client(self, db: int = 0, **options: object) -> "redis.Redis":
        """One that trusts whatever answers."""
        mine = {"ssl": True, "ssl_cert_reqs": "none", "ssl_check_hostname": False}
        mine |= {"ssl_certfile": str(self._tester.cert), "ssl_keyfile": str(self._tester.key)}
        return super().client(db, **{**mine, **options})

    @property
    def url(self) -> str:
        return f"rediss://127.0.0.1:{self.port}"

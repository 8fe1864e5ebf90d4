"""TLS settings of a site, and what is wrong with the files that they name.

The server's certificate is always verified. The files are read anew for each connection, so that certificates may be
renewed while an engine runs. Source: Python documentation, "ssl"; OpenSSL 3, `x509_vfy.h`.
"""

import ssl
from pathlib import Path

import attrs

from bisync.passwords import Kept

LEAST = ssl.TLSVersion.TLSv1_2
FILE_BYTES_MAX = 4 << 20  # the certificates of all public CAs together have a quarter of that


class WrongFile(ValueError):
    """A file that cannot be used. `option` of the job file names it."""

    def __init__(self, option: str, text: str) -> None:
        super().__init__(text)
        self.option = option


@attrs.frozen
class Tls:
    """How to talk TLS with a site. Paths are absolute."""

    ca_file: Path | None = None  # certificates of CAs, as PEM; None: those that this system trusts
    cert_file: Path | None = None  # our own certificate with its chain, as PEM; None: we show none
    key_file: Path | None = None  # its private key; None: it is in `cert_file`
    key_password: Kept | None = None  # of the private key
    check_name: bool = True  # must the certificate be for the name that we know the server by?
    server_name: str | None = None  # that name; None: the host of the url

    def context(self) -> ssl.SSLContext:
        """For one connection. Raises WrongFile."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = LEAST
        context.options |= ssl.OP_NO_RENEGOTIATION
        context.check_hostname = self.check_name
        if self.ca_file is None:
            context.load_default_certs()
        else:
            self._trust(context, self.ca_file)
        if self.cert_file is not None:
            self._show(context, self.cert_file)
        return context

    def _trust(self, context: ssl.SSLContext, path: Path) -> None:
        _pem("ca_file", path, "CERTIFICATE")
        try:
            context.load_verify_locations(path)
        except (OSError, ValueError):  # ssl.SSLError is an OSError
            raise WrongFile(
                "ca_file", "its certificates are damaged; expected PEM as `openssl x509` shows it"
            ) from None

    def _show(self, context: ssl.SSLContext, cert: Path) -> None:
        key = self.key_file or cert
        key_option = "key_file" if self.key_file is not None else "cert_file"
        _pem("cert_file", cert, "CERTIFICATE")
        if "PRIVATE KEY-----" not in _pem(key_option, key, ""):
            where = "name the private key in key_file" if self.key_file is None else "expected a private key as PEM"
            raise WrongFile(key_option, f"there is no private key in it; {where}")
        password, asked = self._password(), False

        def ask() -> str:
            nonlocal asked
            asked = True
            return password or ""

        try:
            context.load_cert_chain(cert, key, ask)
        except (OSError, ValueError) as e:
            if getattr(e, "reason", None) == "KEY_VALUES_MISMATCH":
                right = "the private key belongs to another certificate; name the one that was made with it"
                raise WrongFile(key_option, right) from None
            if asked and password is None:
                right = "the private key is encrypted; name its password in key_password_env or key_password_file"
                raise WrongFile(key_option, right) from None
            if asked:
                assert self.key_password is not None
                raise WrongFile(self.key_password.option, "it is not the password of the private key") from None
            raise WrongFile(key_option, "certificate or private key is damaged; expected both as PEM") from None

    def _password(self) -> str | None:
        if self.key_password is None:
            return None
        try:
            return self.key_password.read().reveal()
        except ValueError as e:
            raise WrongFile(self.key_password.option, str(e)) from None


def _pem(option: str, path: Path, kind: str) -> str:
    """The text of a PEM file. Raises WrongFile where it cannot be read, or holds nothing of the kind."""
    try:
        with path.open("rb") as file:
            text = file.read(FILE_BYTES_MAX).decode("latin-1")
    except FileNotFoundError:
        right = "there is no such file; a relative path begins at the job file's folder"
        raise WrongFile(option, right) from None
    except (OSError, ValueError) as e:
        why = e.strerror if isinstance(e, OSError) else "no path of a file"
        right = f"the file cannot be read: {why}; let the account that runs bisync read it"
        raise WrongFile(option, right) from None
    if f"-----BEGIN {kind}" not in text:
        raise WrongFile(
            option, f"there is no {kind.lower() or 'PEM'} in it; expected PEM, which begins with -----BEGIN"
        )
    return text

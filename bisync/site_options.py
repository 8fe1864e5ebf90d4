"""A table `[sites.<name>]` of the job file: where a site is, how to log in there, and how to talk TLS with it.

What two options say together is checked here too, on the document itself, so that it goes on after other mistakes. Of
an option that names a password neither value nor name is shown: somebody may have written the password there.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs

from bisync.endpoint import EXAMPLE, Endpoint, read_url
from bisync.options import Metadata, Mistake, WrongPlace, flag, option, text
from bisync.passwords import Kept
from bisync.tls import Tls, WrongFile

PASSWORD_OPTIONS, KEY_PASSWORD_OPTIONS = ("password_env", "password_file"), ("key_password_env", "key_password_file")
TLS_OPTIONS = ("ca_file", "cert_file", "key_file", *KEY_PASSWORD_OPTIONS, "check_name", "server_name")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9_])?|[0-9A-Fa-f:.]+")


def _read_endpoint(value: Any) -> Endpoint:
    if not isinstance(value, str):
        raise ValueError(f"expected {EXAMPLE}")
    return read_url(value, password_elsewhere=True)


def _read_server_name(value: Any) -> str:
    if not isinstance(value, str) or not _HOST.fullmatch(value) or len(value) > 255:
        raise ValueError('expected the name that the certificate is for, such as "redis.example.com"')
    return value


def _hidden(pattern: re.Pattern[str], right: str) -> Metadata:
    """Metadata of an option whose value is never shown."""

    def reads(value: Any) -> str:
        if not isinstance(value, str) or not pattern.fullmatch(value):
            raise WrongPlace(f"expected {right}")
        return value

    return option(reads, right)


def _variable() -> Metadata:
    return _hidden(_VARIABLE, 'the name of a variable of the environment, such as "ORDERS_EAST_PASSWORD"')


def _password_file() -> Metadata:
    return _hidden(re.compile(r"[^\0]+"), 'the path of a file, such as "east.password"')


@attrs.frozen
class SiteTable:
    """A table `[sites.<name>]`."""

    url: Endpoint = attrs.field(metadata=option(_read_endpoint, EXAMPLE))
    # Where `password` or `user:password` is kept, instead of in the url.
    password_env: str | None = attrs.field(default=None, metadata=_variable())
    password_file: str | None = attrs.field(default=None, metadata=_password_file())
    # Certificates of the CAs that may have signed the server's; none: those that this system trusts.
    ca_file: str | None = attrs.field(default=None, metadata=text('the path of a file, such as "ca.pem"'))
    # Our own certificate for a server that wants one, and its private key; none: the key is in `cert_file`.
    cert_file: str | None = attrs.field(default=None, metadata=text('the path of a file, such as "bisync.pem"'))
    key_file: str | None = attrs.field(default=None, metadata=text('the path of a file, such as "bisync.key"'))
    # Where the password of an encrypted private key is kept.
    key_password_env: str | None = attrs.field(default=None, metadata=_variable())
    key_password_file: str | None = attrs.field(default=None, metadata=_password_file())
    # Must the server's certificate be for the name that we know it by?
    check_name: bool = attrs.field(default=True, metadata=flag())
    # That name, where it is not the host of the url; it is told to the server too (SNI).
    server_name: str | None = attrs.field(default=None, metadata=option(_read_server_name))


def endpoint_of(table: SiteTable, folder: Path) -> Endpoint:
    """How to reach the site. Relative paths begin at `folder`, the job file's."""
    endpoint = attrs.evolve(table.url, kept=_kept(table, PASSWORD_OPTIONS, folder))
    if endpoint.tls is None:
        return endpoint
    files = {name: _path(folder, getattr(table, name)) for name in ("ca_file", "cert_file", "key_file")}
    key_password = _kept(table, KEY_PASSWORD_OPTIONS, folder)
    tls = Tls(**files, key_password=key_password, check_name=table.check_name, server_name=table.server_name)
    return attrs.evolve(endpoint, tls=tls)


def _kept(table: SiteTable, names: tuple[str, str], folder: Path) -> Kept | None:
    variable, path = (getattr(table, name) for name in names)
    if variable is not None:
        return Kept(names[0], variable=variable)
    return Kept(names[1], path=_path(folder, path)) if path is not None else None


def _path(folder: Path, name: str | None) -> Path | None:
    """A path of the job file; `~` for the home folder."""
    if name is None:
        return None
    try:
        return folder / Path(name).expanduser()
    except RuntimeError:  # no home folder: such a file is not there either
        return folder / name


def urls(sites: Mapping[str, Any]) -> Iterator[tuple[str, Endpoint]]:
    """The sites whose url can be read."""
    for name, site in sites.items():
        try:
            yield name, _read_endpoint(site.get("url") if isinstance(site, dict) else None)
        except ValueError:
            continue


def site_mistakes(sites: Any, folder: Path, *, connects: bool) -> Iterator[Mistake]:
    """What is wrong with options that are right one by one; `connects`: also with what they name.

    `sites` is whatever the document holds under that name.
    """
    if not isinstance(sites, dict):
        return
    for name, endpoint in urls(sites):
        yield from _mistakes(("sites", name), sites[name], endpoint, folder, connects)


def _mistakes(
    place: tuple[str, str], site: Mapping[str, Any], endpoint: Endpoint, folder: Path, connects: bool
) -> Iterator[Mistake]:
    """Of one site."""
    given = [name for name in PASSWORD_OPTIONS if name in site]
    if endpoint.password is not None and given:
        right = "the url has a password too; expected it in one place"
        yield Mistake((*place, given[0]), right, shows_value=False)
    if endpoint.user is not None and endpoint.password is None and not given:
        right = f"a user without a password; expected {EXAMPLE}, or password_env or password_file beside it"
        yield Mistake((*place, "url"), right)
    for first, second in (PASSWORD_OPTIONS, KEY_PASSWORD_OPTIONS):
        if first in site and second in site:
            yield Mistake((*place, second), f"expected one of {first} and {second}", shows_value=False)
    if endpoint.tls is None:
        for name in TLS_OPTIONS:
            if name in site:
                yield Mistake((*place, name), "expected only beside a url that begins with rediss://", False)
    elif "cert_file" not in site:
        for name in ("key_file", *KEY_PASSWORD_OPTIONS):
            if name in site:
                yield Mistake((*place, name), "expected only beside a cert_file", shows_value=False)
    if connects:
        yield from _wrong_files(place, site, endpoint, folder)


def _wrong_files(
    place: tuple[str, str], site: Mapping[str, Any], endpoint: Endpoint, folder: Path
) -> Iterator[Mistake]:
    """Passwords that cannot be read, and files of TLS that cannot be used. One of TLS at a time."""
    known = {a.name for a in attrs.fields(SiteTable)}
    try:
        table = SiteTable(**{k: v for k, v in site.items() if k in known and _reads(k, v)} | {"url": endpoint})
    except TypeError:
        return
    whole = endpoint_of(table, folder)
    if whole.kept is not None:
        try:
            whole.login()
        except ValueError as e:
            yield Mistake((*place, whole.kept.option), str(e), shows_value=False)
    if whole.tls is not None:
        try:
            whole.tls.context()
        except WrongFile as e:
            yield Mistake((*place, e.option), str(e), shows_value=e.option not in KEY_PASSWORD_OPTIONS)


def _reads(name: str, value: Any) -> bool:
    """Is the value of this option right by itself?"""
    try:
        attrs.fields_dict(SiteTable)[name].metadata["reads"](value)
    except ValueError:
        return False
    return True

"""Asking a site about itself: the control plane, one connection to one site, plain functions that wait.

The only place in the product that knows redis-py. Its exceptions end here: each becomes a SiteError that says what
happened, why, and what to do, and never holds the password. A `Control` belongs to one thread at a time; trio code
calls it in a worker thread. The data itself does not come this way (see the replica and the writer).

Source: redis.io/docs, "Redis serialization protocol" and "ACL"; the texts of the errors are those of Redis 2.8 to 8.
"""

import contextlib
import re
import socket
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any, Union

import attrs
import hiredis
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from bisync.config import Site
from bisync.core.patterns import OWN_PREFIX
from bisync.errors import SiteError
from bisync.runtime.tls_control import Secured, SecuredConnection
from bisync.runtime.tls_errors import speaks_tls, wants_tls

Word = Union[bytes, str, int]
Reply = Union[bytes, int, None, list[Any], "Refusal"]
"""A reply as the server sent it: bulk and status replies are bytes, an error reply is a `Refusal`."""

ANONYMOUS: dict[str, Any] = {"driver_info": None}
"""No CLIENT SETINFO: an account with few rights, or an old server, would only refuse it."""
if not hasattr(redis, "DriverInfo"):  # before redis-py 7.2
    ANONYMOUS = {"lib_name": None, "lib_version": None}

TYPES: dict[type[redis.RedisError], str] = {
    redis.exceptions.NoPermissionError: "NOPERM",
    redis.exceptions.ReadOnlyError: "READONLY",
    redis.exceptions.OutOfMemoryError: "OOM",
    redis.exceptions.ExecAbortError: "EXECABORT",
    redis.exceptions.MasterDownError: "MASTERDOWN",
    redis.exceptions.ClusterDownError: "CLUSTERDOWN",
    redis.exceptions.TryAgainError: "TRYAGAIN",
}
"""The first word of an error reply where redis-py has made it a type; it is not in the text then."""

CODES = {
    "WRONGTYPE",
    "NOREPLICAS",
    "MISCONF",
    "BUSY",
    "BUSYKEY",
    "BUSYGROUP",
    "NOGROUP",
    "DENIED",
    "NOPROTO",
    "CROSSSLOT",
}
"""Other first words. They are listed because redis-py takes "ERR" away, and a text may begin with a command's name."""

TIMEOUT_S = 5.0  # for connecting and for each reply; a healthy server answers in milliseconds
SHORT = 8  # characters; a password of fewer may be a part of ordinary words
FRAME = 6  # about so many bytes of a word or a reply are the protocol's
DATABASES_PROBED = 1024  # how many databases are tried one by one where INFO is not allowed; the stock setting is 16
HEALING = {"BUSY", "OOM", "MISCONF", "NOREPLICAS", "TRYAGAIN", "MASTERDOWN", "CLUSTERDOWN"}
"""Codes of error replies after which the same command may succeed later."""

_LACKS = re.compile(r"access (?:a|one of the|the '.*') (key|channel)")  # of NOPERM: not the command, but a name in it

REMEDIES = {
    "BUSY": "wait until the script has ended, or SCRIPT KILL it",
    "READONLY": "name the master in the job file, not a replica",
    "OOM": "raise maxmemory, or delete data",
    "MISCONF": "the server cannot save its data: see its log",
    "NOREPLICAS": "see that the server's own replicas are connected (min-replicas-to-write)",
    "DENIED": "the server is in protected mode: set a password or a bind address there",
}
"""What a person can do, by the code of the error reply."""


@attrs.frozen
class Refusal:
    """An error reply: the site is well, but refuses this command."""

    code: str  # the first word: "NOPERM", "WRONGTYPE", "ERR" ...
    text: str  # the rest, with the password and the command's arguments taken out

    @property
    def denied(self) -> bool:
        """Does the account lack the right? (EXEC says so as the reason why it aborts the transaction.)"""
        return self.code == "NOPERM" or self.code == "EXECABORT" and "no permissions" in self.text.lower()

    @property
    def unknown(self) -> bool:
        """Is there no such command: renamed, disabled, or newer than the server?"""
        return self.text.lower().startswith(("unknown command", "unknown subcommand"))


class PasswordRefused(SiteError):
    """The site wants a password, or another one. Waiting does not help."""


class CommandRefused(SiteError):
    """The site is well but refuses a command; `refusal` is its answer."""

    def __init__(self, site: Site, what: str, reply: Refusal, *, hint: str, heals: bool = False) -> None:
        super().__init__(site.name, what, why=f"{reply.code} {reply.text}", hint=hint, heals=heals)
        self.refusal = reply


class Control:
    """One connection to one site, opened at the first question and again after it was lost.

    `timeout_s` bounds the wait for the connection and for each reply. `toll` is called after each exchange with the
    number of commands and about how many bytes they and their replies have; it may wait. All methods raise SiteError
    where the site cannot be reached, refuses the password, is loading, or is no Redis server.
    """

    def __init__(
        self, site: Site, *, timeout_s: float = TIMEOUT_S, toll: Callable[[int, int], None] | None = None
    ) -> None:
        self.site, self._toll = site, toll
        self._options: dict[str, Any] = {
            "host": site.endpoint.host,
            "port": site.endpoint.port,
            "credential_provider": _Account(site) if site.endpoint.has_password else None,
            "socket_timeout": timeout_s,
            "socket_connect_timeout": timeout_s,
            "protocol": 2,  # 3 greets with HELLO, which servers before 6.0 refuse
            "retry": Retry(NoBackoff(), 0),  # a command that may have run must not be sent twice unseen
        }
        self._connect: Any = redis.Connection  # redis-py does not say of what type its options are
        if site.endpoint.tls is not None:
            self._connect, self._options["site"] = SecuredConnection, site
        self._connection: Any = self._connect(**self._options, **ANONYMOUS)
        self._open = False  # is there a session, in a state that we know?
        self._database = 0  # the one that is selected in it
        self._answered = False  # has this place ever talked like a Redis server?
        self._clients: dict[int, "redis.Redis"] = {}

    def __repr__(self) -> str:
        return f"<Control {self.site.name} {place(self.site)}>"

    def __enter__(self) -> "Control":
        return self

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections. A later question opens a new one."""
        self._drop()
        for client in self._clients.values():
            client.close()
        self._clients.clear()

    def batch(self, commands: Sequence[Sequence[Word]], *, db: int = 0) -> list[Reply]:
        """Send the commands in one go, in database `db`, and return their replies in order.

        An error reply is a `Refusal` in its place. The replies are all in memory at once: bound the batch.
        """
        try:
            with self.errors():
                if not self._open:
                    self._connection.connect()
                    self._open, self._database = True, 0
                if db != self._database:
                    # Alone, and its answer read first: what follows must not happen in another database.
                    selected = self._exchange([("SELECT", db)])[0]
                    if isinstance(selected, Refusal):
                        raise refused(self.site, ("SELECT",), selected)
                    self._database = db
                replies = self._exchange(commands)
        except CommandRefused:
            raise
        except BaseException:  # replies may be left in the connection: it must not be used again
            self._drop()
            raise
        if self._toll is not None:
            size = sum(_size(word) for command in commands for word in command) + sum(map(_size, replies))
            self._toll(len(commands), size)
        return replies

    def ask(self, *command: Word, db: int = 0) -> Reply:
        """The reply to one command; an error reply is returned as a `Refusal`."""
        return self.batch([command], db=db)[0]

    def call(self, *command: Word, db: int = 0) -> Any:
        """The reply to one command. Raises SiteError where the reply is an error."""
        reply = self.ask(*command, db=db)
        if isinstance(reply, Refusal):
            raise refused(self.site, command, reply)
        return reply

    def call_all(self, commands: Sequence[Sequence[Word]], *, db: int = 0) -> list[Any]:
        """As `batch`. Raises SiteError for the first reply that is an error."""
        replies = self.batch(commands, db=db)
        for command, reply in zip(commands, replies):
            if isinstance(reply, Refusal):
                raise refused(self.site, command, reply)
        return replies

    def execute(self, commands: Sequence[Sequence[Word]], *, db: int = 0) -> list[Any] | None:
        """The replies to commands in one MULTI; None, and nothing was done, where a key under WATCH has changed.

        Raises SiteError where the transaction is refused, or one command in it (the others were done then).
        """
        words = [("MULTI",), *commands, ("EXEC",)]
        replies = self.batch(words, db=db)
        for command, queued in zip(words, replies):  # one that cannot be queued says why, and EXEC only that it was so
            if isinstance(queued, Refusal):
                raise refused(self.site, command, queued)
        reply = replies[-1]
        assert reply is None or isinstance(reply, list)
        for command, inner in zip(commands, reply or ()):
            if isinstance(inner, redis.ResponseError):
                raise refused(self.site, command, refusal(self.site, inner))
        return reply

    def info(self, section: str) -> dict[str, str]:
        """The fields of one section of INFO. Raises SiteError also where the account may not ask."""
        text = self.call("INFO", section).decode(errors="replace")
        return dict(line.split(":", 1) for line in text.splitlines() if ":" in line and not line.startswith("#"))

    def config_get(self, name: str) -> str | None:
        """A setting of the server, or None where the account may not read it or the server does not have it."""
        match self.ask("CONFIG", "GET", name):
            case [_, bytes(value)]:
                return value.decode(errors="replace")
        return None

    def role(self) -> str:
        """What the site is in its own replication: "master" or "replica"."""
        return "master" if self.info("replication").get("role") == "master" else "replica"

    def databases(self) -> dict[int, int]:
        """The databases that hold keys, with the number of their keys (expired ones may be among them)."""
        reply = self.ask("INFO", "keyspace")
        if isinstance(reply, bytes):
            lines = [line.split(":", 1) for line in reply.decode().splitlines() if line.startswith("db")]
            return {int(name[2:]): int(fields.split(",")[0].removeprefix("keys=")) for name, fields in lines}
        found: dict[int, int] = {}
        for db in range(DATABASES_PROBED):
            try:
                keys = self.call("DBSIZE", db=db)
            except CommandRefused:
                if db == 0:
                    raise
                break  # the number is out of range: that was the last database
            if keys:
                found[db] = keys
        return found

    def client(self, db: int = 0) -> "redis.Redis":
        """A redis-py client for database `db`, for what this class does not offer. Use it inside `errors()`."""
        if db not in self._clients:
            options = {**self._options, **ANONYMOUS, "db": db, "connection_class": self._connect}
            self._clients[db] = redis.Redis.from_pool(redis.ConnectionPool(**options))
        return self._clients[db]

    @contextlib.contextmanager
    def errors(self) -> Iterator[None]:
        """A block in which redis-py's exceptions become SiteErrors."""
        try:
            yield
        except redis.RedisError as e:
            raise site_error(self.site, e, answered=self._answered) from None

    @property
    def secured(self) -> Secured | None:
        """What was agreed on for TLS; None: the connection is in the clear, or was never made."""
        return self._connection.secured if isinstance(self._connection, SecuredConnection) else None

    def _drop(self) -> None:
        self._connection.disconnect()
        self._open = False

    def _exchange(self, commands: Sequence[Sequence[Word]]) -> list[Reply]:
        # redis-py packs for many kinds of words, one command at a time; hiredis alone is four times as fast.
        pack: Any = hiredis.pack_command  # its stub says that a command is one word
        packed = b"".join([pack(tuple(command)) for command in commands])
        self._connection.send_packed_command([packed], check_health=False)
        return [self._read() for _ in commands]

    def _read(self) -> Reply:
        try:
            reply: Reply = self._connection.read_response(disable_decoding=True, disconnect_on_error=False)
        except redis.ResponseError as e:
            reply = refusal(self.site, e)
        self._answered = True
        return reply


def _size(reply: Reply | str) -> int:
    """About how many bytes a reply, or a word of a command, takes on the network."""
    if isinstance(reply, list):
        return FRAME + sum(map(_size, reply))
    return FRAME + (len(reply) if isinstance(reply, bytes | str) else 0)


class _Account(redis.CredentialProvider):
    """Reads account and password anew for each connection. Raises SiteError where that cannot be done."""

    def __init__(self, site: Site) -> None:
        self._site = site

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        """As redis-py wants them."""
        login = self._site.login()
        password = login.password.reveal() if login.password is not None else ""
        return (password,) if login.user is None else (login.user, password)


def place(site: Site) -> str:
    """Where the site is, for messages: host and port, without user and password."""
    return site.endpoint.address


def clean(site: Site, text: str) -> str:
    """A server's words without the password. An unknown command's arguments are cut off: AUTH may have been renamed.

    A short password is masked as a word only: `***ermissions` would tell more than it hides.
    """
    text = text.split(", with args beginning with", 1)[0]
    for password in site.endpoint.secrets:
        mask = re.escape(password)
        text = re.sub(mask if len(password) >= SHORT else rf"(?<!\w){mask}(?!\w)", "***", text)
    return text


def refusal(site: Site, error: redis.ResponseError) -> Refusal:
    """An error reply as a value."""
    text = clean(site, str(error))
    code, rest = TYPES.get(type(error), "ERR"), text
    if text.partition(" ")[0] in CODES:
        code, _, rest = text.partition(" ")
    return Refusal(code, rest)


def acl_rule(command: Sequence[Word], reply: Refusal) -> str:
    """The rule for ACL SETUSER that would allow the command, for a hint."""
    lacks = _LACKS.search(reply.text)
    if lacks is not None and lacks[1] == "channel":
        return "&*"
    if lacks is not None:
        key = command[1] if len(command) > 1 else b""
        key = key if isinstance(key, bytes) else str(key).encode()
        return "~bisync:*" if key.startswith(OWN_PREFIX) else "~*"
    return f"+{_name(command).lower()}"


def _name(command: Sequence[Word]) -> str:
    return command[0].decode(errors="replace") if isinstance(command[0], bytes) else str(command[0])


def refused(site: Site, command: Sequence[Word], reply: Refusal) -> CommandRefused:
    """The error for a command that the site refused. Only the command's first word is shown: the rest may be data."""
    name = _name(command)
    if reply.denied:
        rule = f"ACL SETUSER {site.endpoint.account} {acl_rule(command, reply)}"
        hint = f"give the account the right on {place(site)}: {rule}"
        return CommandRefused(site, f"the account may not use {name} here", reply, hint=hint)
    if reply.unknown:
        hint = "remove its rename-command from the server's configuration, or use a server that has it"
        return CommandRefused(site, f"the server has no command {name}", reply, hint=hint)
    hint = REMEDIES.get(reply.code, "see the server's answer")
    return CommandRefused(site, f"{name} was refused", reply, hint=hint, heals=reply.code in HEALING)


def site_error(site: Site, error: redis.RedisError, *, answered: bool = False) -> SiteError:
    """The SiteError for an exception of redis-py.

    `answered` says whether this place has ever talked like a Redis server. If not, and it says something else, it
    probably is none.
    """
    where, why = place(site), clean(site, str(error))
    if isinstance(error, redis.ResponseError):
        return refused(site, ("the command",), refusal(site, error))
    if isinstance(error, redis.AuthenticationError):
        return _password_error(site, where, why)
    if isinstance(error, redis.exceptions.BusyLoadingError):
        hint = "wait until it has loaded its data"
        return SiteError(site.name, f"{where} is still loading its data", why=why, hint=hint)
    if isinstance(error, redis.TimeoutError):
        hint = "see whether the server is alive, and whether a firewall stands between"
        return SiteError(site.name, f"{where} did not answer in time", why=why, hint=hint)
    if isinstance(error, redis.InvalidResponse):
        if not answered and site.endpoint.tls is None and speaks_tls(site):
            return wants_tls(site)
        hint = "correct the port in the site's url"
        what = f"{where} answers, but it is not Redis" if not answered else f"{where} sent something that is no reply"
        return SiteError(site.name, what, why=why, hint=hint, heals=answered)
    return _connection_error(site, where, why, error, answered)


def _password_error(site: Site, where: str, why: str) -> PasswordRefused:
    endpoint = site.endpoint
    account = f"user {endpoint.user!r}" if endpoint.user else "the default user"
    given = "the password in the site's url"
    if endpoint.kept is not None:
        given = f"what sites.{site.name}.{endpoint.kept.option} names"
        if not endpoint.user and endpoint.account != "default":
            account = "the user before its colon"  # not shown: it may be the beginning of a password
    if "no password is set" in why or "without any password" in why:
        hint = f"remove {given}, or set requirepass on the server"
        what = f"{where} refused the password: it has none set for {account}"
    elif endpoint.has_password:
        hint = f"correct user and password in {given.removeprefix('the password in ')}"
        hint += ", and see that the user is on (ACL GETUSER)"
        what = f"{where} refused the password of {account}"
    else:
        hint = "put user and password into the site's url: redis://user:password@host:port, or name a password_file"
        what = f"{where} refused the connection without a password"
    return PasswordRefused(site.name, what, why=why, hint=hint, heals=False)


_NUMBERED = re.compile(r"Error -?\d+ (?:connecting to|while (?:reading from|writing to)) \S+?\.? (.+?)\.?")


def _connection_error(site: Site, where: str, why: str, error: redis.RedisError, answered: bool) -> SiteError:
    cause = error.__cause__ or error.__context__
    if isinstance(cause, socket.gaierror):
        what, hint = f"the host {site.endpoint.host!r} has no address", "correct the host in the site's url"
    elif isinstance(cause, ConnectionRefusedError) or "refused" in why.lower():
        what, hint = f"{where} refused the connection", "start the server, or correct host and port in the site's url"
    elif "max number of clients" in why:
        what, hint = f"{where} has no room for another client", "raise maxclients, or close idle clients"
    elif answered:
        what, hint = f"{where} closed the connection", "see the server's log"
    elif "connecting" in why:
        what, hint = f"{where} cannot be reached", "check host and port in the site's url, and the network"
    else:
        if site.endpoint.tls is None and speaks_tls(site):
            return wants_tls(site)
        what = f"{where} closed the connection without an answer"
        hint = "correct the port in the site's url: what is there talks neither plain Redis nor TLS"
    numbered = _NUMBERED.fullmatch(why)  # redis-py puts the number of the error and the place before the words
    return SiteError(site.name, what, why=numbered[1] if numbered else why, hint=hint)

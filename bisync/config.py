"""The job file: two sites, a topology and rules, as TOML. `docs/job-file.md` explains each option to its user.

Each table of the file is an attrs class below (those of the sites are in `bisync.site_options`, that of `[conflicts]`
is in `bisync.conflict_options`, that of `[limits]` in `bisync.limits`), read by `bisync.options`, which tells all
mistakes at once. Checks that compare one table with another are made here, on the document itself, so that they too go
on after a mistake.
"""

import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs

from bisync import options
from bisync.conflict_options import Conflicts, KeyPolicy, conflict_mistakes, read_patterns
from bisync.core.patterns import Scope
from bisync.endpoint import Endpoint, Login, Secret
from bisync.errors import JobFileError, SiteError
from bisync.limits import Limits
from bisync.options import Mistake, WrongPlace, flag, one_of, option, text, whole
from bisync.site_options import SiteTable, endpoint_of, site_mistakes, urls

__all__ = ["Commands", "Conflicts", "Endpoint", "Engine", "FullCopy", "Job", "KeyPolicy", "Limits", "Objects"]
__all__ += ["Secret", "Site", "SiteTable", "load_job"]

FILE_BYTES_MAX = 1 << 20  # a job file is a page; what is longer is another file, given by mistake
DATABASE_MAX = (1 << 31) - 1  # Redis counts databases with an int

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")
_SITES = "two tables, such as [sites.east] and [sites.west], each with a url"
_LETTERS = "small letters, digits, - and _, beginning with a letter or a digit"
_JOB_NAME = f'a name such as "orders": at most 64 {_LETTERS}'

_ONE_WAY = "expected {other} in a one-way job, as nobody writes at its second site"


def _read_job_name(value: Any) -> str:
    if not isinstance(value, str) or not _NAME.fullmatch(value) or len(value) > 64:
        raise ValueError(f"expected {_JOB_NAME}")
    return value


def _read_site_name(value: str) -> str:
    if not _NAME.fullmatch(value) or len(value) > 32:
        raise WrongPlace(f"expected a site's name of at most 32 {_LETTERS}")
    return value


def _read_sites(value: Any) -> "dict[str, SiteTable]":
    if not isinstance(value, dict):
        raise WrongPlace(f"expected {_SITES}, not {options.kind(value)}")
    return options.table_of(value, _read_site_name, lambda site: options.structure(site, SiteTable))


def _read_database_key(value: str) -> int:
    if not re.fullmatch(r"0|[1-9][0-9]{0,9}", value) or int(value) > DATABASE_MAX:
        raise WrongPlace(f"expected the number of a database at the first site, from 0 to {DATABASE_MAX:,}")
    return int(value)


def _read_database(value: Any) -> int:
    if type(value) is not int or not 0 <= value <= DATABASE_MAX:
        raise ValueError(f"expected the number of a database at the second site, from 0 to {DATABASE_MAX:,}")
    return value


def _read_databases(value: Any) -> dict[int, int]:
    if not isinstance(value, dict):
        raise WrongPlace(f"expected a table such as {{ 0 = 0, 3 = 5 }}, not {options.kind(value)}")
    if not value:
        raise WrongPlace("expected at least one database, or no such option: then every database is copied")
    databases: dict[int, int] = options.table_of(value, _read_database_key, _read_database)
    for image in sorted(set(databases.values())):
        doubled = sorted(source for source, target in databases.items() if target == image)
        if len(doubled) > 1:
            shown = " and ".join(map(str, doubled))
            raise WrongPlace(f"expected a different target for each database, but {shown} both go to {image}")
    return databases


def _read_include(value: Any) -> tuple[str, ...]:
    if value == []:
        raise ValueError("expected at least one pattern, or no such option: then every key is copied")
    return read_patterns(value)


@attrs.frozen
class Site:
    """A Redis deployment with its own writers."""

    name: str  # the user's name for it
    endpoint: Endpoint

    def login(self) -> Login:
        """Account and password as they are at this moment. Raises SiteError where they cannot be read."""
        try:
            return self.endpoint.login()
        except ValueError as e:
            option = self.endpoint.kept.option if self.endpoint.kept is not None else "url"
            hint = f"mend what sites.{self.name}.{option} names; it is read again for each connection"
            what, heals = "its password cannot be read", self.endpoint.met
            raise SiteError(self.name, what, why=f"{option}: {e}", hint=hint, heals=heals) from None


@attrs.frozen
class FullCopy:
    """The table `[full_copy]`: how the forward channel begins."""

    # What to do where the target holds keys before the first copy.
    target_not_empty: str = attrs.field(default="refuse", metadata=one_of("refuse", "overwrite", "reconcile"))
    # What to do where a site has lost the part of its stream that must be read next.
    on_gap: str = attrs.field(default="stop", metadata=one_of("stop", "full", "reconcile"))
    # A value that takes more bytes in the snapshot is copied in pieces.
    whole_bytes: int = attrs.field(default=4 << 20, metadata=whole(1, 512 << 20, "bytes"))
    # Most bytes of a snapshot on disk at a time.
    spool_bytes: int = attrs.field(default=0, metadata=whole(1 << 20, 1 << 50, "bytes", zero="as many as the disk has"))
    # So many bytes of such a value go with one transaction.
    piece_bytes: int = attrs.field(default=256 << 10, metadata=whole(64, 64 << 20, "bytes"))


@attrs.frozen
class Objects:
    """The table `[objects]`: which databases and keys are copied, both ways."""

    # Number at the first site -> number at the second; None: every database, same number.
    databases: dict[int, int] | None = attrs.field(default=None, metadata=option(_read_databases))
    # Glob patterns, one of which must match the key; none: every key.
    include: tuple[str, ...] = attrs.field(default=(), metadata=option(_read_include))
    # Glob patterns, none of which may match the key; stronger than `include`.
    exclude: tuple[str, ...] = attrs.field(default=(), metadata=option(read_patterns))

    def scope(self) -> Scope:
        """The choice as the forward channel applies it; patterns in UTF-8."""
        include, exclude = (tuple(p.encode() for p in patterns) for patterns in (self.include, self.exclude))
        return Scope(self.databases, include, exclude)


@attrs.frozen
class Commands:
    """The table `[commands]`: what happens to commands that are about more than keys.

    `pass` applies them at the other site, `drop` leaves them out, `stop` ends the channel with the reason.
    """

    flush: str = attrs.field(default="pass", metadata=one_of("pass", "drop", "stop"))  # FLUSHALL and FLUSHDB
    # SWAPDB; None: "stop" in a two-way job, where it could meet writes to any key of two databases, else "pass"
    swapdb: str | None = attrs.field(default=None, metadata=one_of("pass", "drop", "stop"))
    publish: str = attrs.field(default="pass", metadata=one_of("pass", "drop", "stop"))  # PUBLISH and SPUBLISH
    function: str = attrs.field(default="pass", metadata=one_of("pass", "drop", "stop"))  # FUNCTION LOAD and the like
    script: str = attrs.field(default="pass", metadata=one_of("pass", "drop", "stop"))  # SCRIPT, of old servers


@attrs.frozen
class Engine:
    """The table `[engine]`: bounds and paces of the running job. Sizes in bytes, times in ms."""

    # Between two heartbeats at a site; 0: none, and no lag in ms either.
    heartbeat_ms: int = attrs.field(default=1_000, metadata=whole(10, 3_600_000, "ms", zero="no heartbeat"))
    # Commands in one transaction at the target, at most. A source's own transaction is never split.
    batch_commands: int = attrs.field(default=4_096, metadata=whole(1, 100_000, "commands"))
    # Bytes in one transaction at the target, at most (one command may be longer).
    batch_bytes: int = attrs.field(default=1 << 20, metadata=whole(1 << 10, 1 << 28, "bytes"))
    # A command that the target will never take: "stop" ends the channel, "quarantine" sets it aside and goes on.
    on_refused: str = attrs.field(default="stop", metadata=one_of("stop", "quarantine"))
    # Where the streams' bytes are kept for a restart: "disk", or "memory" for tests and hosts without a disk.
    journal: str = attrs.field(default="disk", metadata=one_of("disk", "memory"))
    # Bound of the journal, per site.
    journal_bytes: int = attrs.field(default=1 << 30, metadata=whole(1 << 20, 1 << 44, "bytes"))
    # Bytes in memory that are read and not applied, per site, at most.
    queue_bytes: int = attrs.field(default=16 << 20, metadata=whole(1 << 16, 1 << 34, "bytes"))
    # Bytes in memory that are applied and not yet seen back, per site, at most: what later writes are compared with.
    pending_bytes: int = attrs.field(default=32 << 20, metadata=whole(1 << 16, 1 << 34, "bytes"))
    # How long an idle channel waits before it moves its checkpoint.
    checkpoint_every_ms: int = attrs.field(default=10_000, metadata=whole(100, 3_600_000, "ms"))
    # The pause between two tries to reach a site grows up to this.
    retry_pause_ms_max: int = attrs.field(default=10_000, metadata=whole(10, 600_000, "ms"))
    # How long a server may take to accept a connection.
    connect_timeout_ms: int = attrs.field(default=5_000, metadata=whole(10, 600_000, "ms"))
    # May a site's maxmemory-policy evict? What it evicts is deleted at the other site too.
    allow_eviction: bool = attrs.field(default=False, metadata=flag())


@attrs.frozen
class JobTable:
    """The whole document, as its writer sees it."""

    name: str = attrs.field(metadata=option(_read_job_name, _JOB_NAME))
    topology: str = attrs.field(metadata=one_of("one-way", "bidirectional"))
    sites: dict[str, SiteTable] = attrs.field(metadata=option(_read_sites, _SITES))
    store: str | None = attrs.field(default=None, metadata=text('the path of a file, such as "orders.db"'))
    full_copy: FullCopy = attrs.field(factory=FullCopy)
    objects: Objects = attrs.field(factory=Objects)
    conflicts: Conflicts = attrs.field(factory=Conflicts)
    commands: Commands = attrs.field(factory=Commands)
    engine: Engine = attrs.field(factory=Engine)
    limits: Limits = attrs.field(factory=Limits)


@attrs.frozen
class Job:
    """Two sites, a topology and rules: all that the job file says, its paths made absolute."""

    name: str
    topology: str  # "one-way" or "bidirectional"
    source: Site  # the first site of the file: the forward channel reads it
    target: Site
    path: Path  # of the job file
    store: Path  # of the checkpoint store, an SQLite file
    full_copy: FullCopy = attrs.field(factory=FullCopy)
    objects: Scope = attrs.field(factory=Scope)  # of the forward channel
    conflicts: Conflicts = attrs.field(factory=Conflicts)
    commands: Commands = attrs.field(factory=Commands)
    engine: Engine = attrs.field(factory=Engine)
    limits: Limits = attrs.field(factory=Limits)

    @property
    def sites(self) -> tuple[Site, Site]:
        """Source and target."""
        return self.source, self.target

    @property
    def journal_folder(self) -> Path:
        """The folder of the journals of both sites, beside the store; of this job alone, which the store may not be."""
        stem = self.store.name.removesuffix(".db")
        return self.store.with_name(f"{stem}.journal" if stem == self.name else f"{stem}.{self.name}.journal")

    def site(self, name: str) -> Site:
        """The site of that name. Raises KeyError where the job has none."""
        return {s.name: s for s in self.sites}[name]


def load_job(path: str | Path, *, connects: bool = True) -> Job:
    """Read a job file; `connects` False: without a look at the passwords and the files of TLS that it names.

    Raises JobFileError with all its mistakes, be they of the file, of TOML, of an option or between two options.
    """
    path = Path(path)
    try:
        document = _document(path)
    except ValueError as e:
        raise JobFileError(str(path), [str(e)]) from None
    table, mistakes = options.read(document, JobTable)
    mistakes = [*mistakes, *_across(document), *_wrong_store(document, path)]
    mistakes += site_mistakes(document.get("sites"), path.absolute().parent, connects=connects)
    if table is None or mistakes:
        raise JobFileError(str(path), [m.describe(document) for m in mistakes])
    source, target = (Site(n, endpoint_of(site, path.absolute().parent)) for n, site in table.sites.items())
    return Job(
        name=table.name,
        topology=table.topology,
        source=source,
        target=target,
        path=path.absolute(),
        store=_beside(path, table.store or f"{table.name}.db"),
        full_copy=table.full_copy,
        objects=table.objects.scope(),
        conflicts=table.conflicts,
        commands=table.commands,
        engine=table.engine,
        limits=table.limits,
    )


def _document(path: Path) -> dict[str, Any]:
    """The TOML document in a file. Raises ValueError with what is wrong, of which there is one thing at a time."""
    try:
        with path.open("rb") as file:
            content = file.read(FILE_BYTES_MAX + 1)
    except FileNotFoundError:
        raise ValueError("there is no such file") from None
    except IsADirectoryError:
        raise ValueError("this is a folder; expected the job file in it") from None
    except (OSError, ValueError) as e:
        raise ValueError(f"it cannot be read: {e.strerror if isinstance(e, OSError) else e}") from None
    if len(content) > FILE_BYTES_MAX:
        raise ValueError(f"it is longer than {FILE_BYTES_MAX:,} bytes; expected a job file")
    try:
        return tomllib.loads(content.decode("utf-8-sig"))
    except UnicodeDecodeError as e:
        raise ValueError(f"byte {e.start} is not UTF-8; expected a text file in UTF-8") from None
    except RecursionError:
        raise ValueError("its arrays or tables are nested too deeply") from None
    except ValueError as e:
        raise ValueError(f"it is not TOML: {e}") from None


def _beside(path: Path, name: str) -> Path:
    """A path of the job file: relative to the file's folder, `~` for the home folder."""
    return path.absolute().parent / Path(name).expanduser()


def _across(document: Mapping[str, Any]) -> Iterator[Mistake]:
    """Mistakes that only two places of the document together show."""
    sites = document.get("sites")
    if not isinstance(sites, dict):
        return
    if len(sites) != 2:
        names = ", ".join(options.shown_place((name,)) for name in sites) or "none"
        yield Mistake(("sites",), f"expected {_SITES}, not {len(sites)} ({names})", shows_value=False)
    seen: dict[str, str] = {}
    for name, endpoint in urls(sites):
        first = seen.setdefault(f"{endpoint.host.lower()} {endpoint.port}", name)
        if first != name:
            yield Mistake(("sites", name, "url"), f"expected another server than that of sites.{first}")
    known = [name for name in sites if _NAME.fullmatch(name)]
    yield from conflict_mistakes(document.get("conflicts"), tuple(sites), known)
    copy = document.get("full_copy")
    if document.get("topology") == "one-way" and isinstance(copy, dict):
        for name, other in (("target_not_empty", "'refuse' or 'overwrite'"), ("on_gap", "'stop' or 'full'")):
            if copy.get(name) == "reconcile":
                yield Mistake(("full_copy", name), _ONE_WAY.format(other=other))


def _wrong_store(document: Mapping[str, Any], path: Path) -> Iterator[Mistake]:
    """Stores that would write over something else."""
    name = document.get("store")
    if not isinstance(name, str) or not name:
        return
    try:
        store = _beside(path, name)
        if store.resolve() == path.resolve():
            yield Mistake(("store",), "expected another file than the job file itself")
        elif name.endswith("/") or store.is_dir():
            yield Mistake(("store",), "expected a file, not a folder")
        elif store.suffix == ".journal":
            yield Mistake(("store",), "expected another ending: .journal is that of the journal's folder")
    except (OSError, ValueError, RuntimeError) as e:  # too long, a NUL in it, no home folder
        yield Mistake(("store",), f"expected the path of a file: {type(e).__name__}")

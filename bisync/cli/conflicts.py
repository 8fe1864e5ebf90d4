"""`bisync conflicts JOB`: which writes met, which of them won, and putting back what lost."""

import contextlib
import json
import os
import pathlib
import stat
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import IO, TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import Console

    from bisync.config import Job
    from bisync.runtime.conflict_record import ConflictRecord
    from bisync.runtime.conflict_table import Wanted
    from bisync.runtime.store import Store

SHOWN = 100  # records in the table, unless --limit says another number
PIPE_WIDTH = 1000  # columns where the output is no terminal: a line for each record, never wrapped
WIDE, NARROW = 120, 96  # columns from which the table shows everything, and below which it does not say why
CUT = 200  # characters of a key or an element in the table
CUT_LESS = 24  # so many are worth more than the numbers of writes
CUT_MIN = 8  # so many are always shown
ID_MAX = (1 << 63) - 1  # SQLite's greatest number
DATABASE_MAX = (1 << 31) - 1
STYLES = {"open": "yellow", "undone": "cyan"}

DROPPED = ("outcome", "found (UTC)", "db", "winner", "element")  # so columns go where even short keys have no room
UNSURE = "?: the times overlap: which one was newer is not certain"


class _ConflictId(click.ParamType):  # type: ignore[type-arg]
    """The number of a conflict."""

    name = "ID"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The number. Raises BadParameter where it is none."""
        text = str(value)
        if not (text.isascii() and text.isdecimal() and 0 < int(text[:20]) <= ID_MAX):
            self.fail(f"{text!r} is no conflict: expected its number, which `bisync conflicts` shows first", param, ctx)
        return int(text)


_ID = _ConflictId()


@click.command(name="conflicts")
@click.argument("job", type=click.Path(path_type=pathlib.Path))
@click.argument("show", metavar="[ID]", type=_ID, required=False)
@click.option("--key", metavar="K", help="Only this key, as it is shown, or keys that match this glob pattern.")
@click.option("--since", metavar="T", help="Only those found at or after T: an age (15m, 2h, 3d) or an ISO time (UTC).")
@click.option("--until", metavar="T", help="Only those found before T.")
@click.option(
    "--database",
    metavar="N",
    type=click.IntRange(0, DATABASE_MAX),
    help="Only this database, as the first site counts.",
)
@click.option("--site", metavar="SITE", help="Only those where a value at SITE was replaced.")
@click.option("--winner", metavar="SITE", help="Only those that a write of SITE has won.")
@click.option("--open", "only_open", is_flag=True, help="Only those that are not settled yet.")
@click.option("--uncertain", is_flag=True, help="Only those where the times could not tell which write was newer.")
@click.option(
    "--limit",
    metavar="N",
    type=click.IntRange(0, ID_MAX),
    help=f"Only the newest so many; 0: all. Without it: {SHOWN} in the table, all with --json and --export.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON document on standard output.")
@click.option("--export", metavar="FILE", help="Write them to FILE, one JSON document a line; - is standard output.")
@click.option("--undo", metavar="ID", type=_ID, help="Put back the value that lost in conflict ID.")
@click.option("--force", is_flag=True, help="With --undo: whatever was written since. With --export: over a file.")
@click.pass_context
def command(ctx: click.Context, /, job: pathlib.Path, **options: Any) -> None:
    """Show the log of conflicts of JOB, the newest last, or one of them in full (ID).

    A conflict is two writes to one place at both sites, neither made with the other one seen. Only the store is read,
    also while the engine runs. --undo asks nothing: it writes the value that lost, at the site where it was replaced,
    as a client would, and the sync carries it across. It is refused where something else was written since then.

    Exit status: 0 well, also where there are no conflicts; 1 not; 2 for wrong use or a bad job file.
    """
    from bisync.config import load_job
    from bisync.runtime.store import Store

    _check_use(ctx, options)
    loaded = load_job(job, connects=options["undo"] is not None)
    wanted = _wanted(loaded, options)
    with Store.open(loaded.store, create=False) as store:
        if options["undo"] is not None:
            _undo(loaded, store, options["undo"], options["force"], options["as_json"])
        elif options["show"] is not None:
            _show_one(loaded, store, options["show"], options["as_json"])
        else:
            _list(loaded, store, wanted, options)


_CHOOSING = ("key", "since", "until", "database", "site", "winner", "only_open", "uncertain", "limit")
_NAMES = {"only_open": "open", "as_json": "json"}


def _check_use(ctx: click.Context, options: dict[str, Any]) -> None:
    """Raises UsageError for options that do not go together."""
    given = [n for n in options if options[n] is not None and options[n] is not False]
    chosen = [f"--{_NAMES.get(n, n)}" for n in _CHOOSING if n in given]
    modes = [n for n in ("show", "undo", "export") if n in given]
    words = {"show": "ID", "undo": "--undo", "export": "--export"}
    if len(modes) > 1:
        raise click.UsageError(f"{words[modes[0]]} and {words[modes[1]]} do not go together", ctx)
    if chosen and modes in (["show"], ["undo"]):
        raise click.UsageError(f"{words[modes[0]]} names one conflict: {chosen[0]} does not go with it", ctx)
    if "force" in given and modes not in (["undo"], ["export"]):
        raise click.UsageError("--force goes with --undo or --export", ctx)
    if options["export"] == "":
        raise click.UsageError("--export needs the name of a file, or - for standard output; it is empty", ctx)
    if modes == ["export"] and "as_json" in given:
        raise click.UsageError("--export writes JSON lines: --json does not go with it", ctx)


def _wanted(job: "Job", options: dict[str, Any]) -> "Wanted":
    """Which records are asked for. Raises UsageError for a value that is none."""
    from bisync.conflicts import read_time, with_key
    from bisync.runtime.conflict_table import Wanted

    now_ms, times = int(time.time() * 1000), {}
    for name in ("since", "until"):
        try:
            times[name] = None if options[name] is None else read_time(options[name], now_ms)
        except ValueError as e:
            raise click.BadParameter(str(e), param_hint=f"'--{name}'") from None
    for name in ("site", "winner"):
        known = [site.name for site in job.sites]
        if options[name] is not None and options[name] not in known:
            text = f"{options[name]!r} is no site of this job: {' or '.join(known)}"
            raise click.BadParameter(text, param_hint=f"'--{name}'")
    wanted = Wanted(
        since_ms=times["since"],
        until_ms=times["until"],
        database=options["database"],
        winner=options["winner"],
        replaced_at=options["site"],
        only_open=options["only_open"],
        only_uncertain=options["uncertain"],
    )
    return wanted if options["key"] is None else with_key(wanted, options["key"])


def _list(job: "Job", store: "Store", wanted: "Wanted", options: dict[str, Any]) -> None:
    ids = store.conflicts.find(job.name, wanted)
    limit = options["limit"]
    if limit is None:
        limit = 0 if options["as_json"] or options["export"] else SHOWN
    chosen = ids[-limit:] if limit else ids
    records = store.conflicts.read(job.name, chosen)
    if options["export"]:
        _export(records, options["export"], options["force"])
    elif options["as_json"]:
        _print_json(records)
    elif chosen:
        _print_table(list(records))
        if len(chosen) < len(ids):
            click.echo(f"The newest {len(chosen):,} of {len(ids):,}. For more: --limit, --json or --export.")
    else:
        some = any(options[n] not in (None, False) for n in _CHOOSING)
        click.echo("No conflicts like that." if some else f"No conflicts in the log of job {job.name!r}.")


# -- documents
def _print_json(records: "Iterable[ConflictRecord]") -> None:
    """A list, written record by record: a log may be larger than memory should be."""
    from bisync.conflicts import as_document

    before = "[\n"
    for record in records:
        text = json.dumps(as_document(record), indent=2)
        click.echo(before + "\n".join(f"  {line}" for line in text.splitlines()), nl=False)
        before = ",\n"
    click.echo("[]" if before == "[\n" else "\n]")


def _export(records: "Iterable[ConflictRecord]", name: str, force: bool) -> None:
    from bisync.conflicts import as_document

    count = 0
    with _opened(name, force) as file:
        for record in records:
            file.write(json.dumps(as_document(record)) + "\n")
            count += 1
        file.flush()
    click.echo(f"{count:,} conflict{'s' if count != 1 else ''} exported.", err=True)


@contextlib.contextmanager
def _opened(name: str, force: bool) -> Iterator[IO[str]]:
    """The file to write, for its owner's eyes only. It appears when it is complete; - is standard output.

    Raises BisyncError where it cannot be written, or is there already (without `force`).
    """
    from bisync.errors import BisyncError, said

    if name == "-":
        if sys.stdout is None:
            raise BisyncError("standard output is closed", hint="name a file, or leave standard output open")
        yield sys.stdout
        return
    path = pathlib.Path(name)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        if _is_stream(path):
            with open(path, "w", encoding="utf-8") as file:
                yield file
            return
        if path.exists() and not force:
            raise FileExistsError
        with open(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w", encoding="utf-8") as file:
            yield file
        if force:
            os.replace(part, path)
        else:
            os.link(part, path)  # unlike a rename, it never takes the place of a file
    except FileExistsError:
        raise BisyncError(f"{name} exists already", hint="name another file, or say --force") from None
    except BrokenPipeError:
        raise
    except OSError as e:
        hint = "name another file, or make room and give the right to write it"
        raise BisyncError(f"{name} cannot be written", why=said(e), hint=hint) from None
    finally:
        with contextlib.suppress(OSError):
            part.unlink()


def _is_stream(path: pathlib.Path) -> bool:
    """A pipe or a device, such as /dev/stdout."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISCHR(mode)


# -- for people
def _console() -> "Console":
    from rich.console import Console

    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = PIPE_WIDTH
    return console


def _print_table(records: "Sequence[ConflictRecord]") -> None:
    from rich.cells import cell_len
    from rich.table import Table
    from rich.text import Text

    console = _console()
    columns = _columns(records, console.width)
    cells_of = {title: [title, *map(text, records)] for title, _, text in columns}
    width_of = {title: max(map(cell_len, texts)) for title, texts in cells_of.items()}
    for dropped, least in [("writes", CUT_LESS), *((title, CUT_MIN) for title in DROPPED)]:
        widths = [2 + min(width_of[title], least if flexible else 1 << 30) for title, flexible, _ in columns]
        if sum(widths) > console.width:
            columns = [column for column in columns if column[0] != dropped]
    cells, widths = [cells_of[title] for title, _, _ in columns], [width_of[title] for title, _, _ in columns]
    flexible = [n for n, column in enumerate(columns) if column[1]]
    most = min(CUT, _share(console.width - 2 * len(columns), widths, flexible))
    table = Table(box=None, padding=(0, 2, 0, 0))
    for n, (title, _, _) in enumerate(columns):
        table.add_column(Text(title), no_wrap=True, min_width=0 if n else widths[n])  # the first is typed: never cut
    for row in zip(*(texts[1:] for texts in cells)):
        words = [Text(text, STYLES.get(text, "")) for text in row]
        for n in flexible:
            words[n].truncate(most, overflow="ellipsis")
        table.add_row(*words)
    console.print(table)
    titles = [title for title, _, _ in columns]
    if not all(record.certain for record in records) and ("why" in titles or "winner" in titles):
        console.print(Text(UNSURE, "dim"))


def _share(width: int, widths: Sequence[int], flexible: Sequence[int]) -> int:
    """How wide each flexible column may be at most, so that all columns have room in `width`."""
    room = width - sum(w for n, w in enumerate(widths) if n not in flexible)
    most = max(widths[n] for n in flexible)
    while most > CUT_MIN and sum(min(widths[n], most) for n in flexible) > room:
        most -= 1
    return most


_Column = tuple[str, bool, Callable[["ConflictRecord"], str]]


def _columns(records: "Sequence[ConflictRecord]", width: int) -> list[_Column]:
    """Title, whether it may be narrower than its texts, and what it shows of a record."""
    from bisync.conflicts import element_text, key_text
    from bisync.status import time_text

    def found(record: "ConflictRecord") -> str:
        text = time_text(record.found_ms).replace("T", " ")
        return text.rstrip("Z") if width >= WIDE else text[5:19]

    columns: list[_Column] = [("id", False, lambda r: str(r.id)), ("found (UTC)", False, found)]
    if any(r.database != 0 and not r.about_functions for r in records):
        title = "database" if width >= WIDE else "db"
        columns.append((title, False, lambda r: "-" if r.about_functions else str(r.database)))
    columns.append(("key", True, key_text))
    if any(r.element is not None for r in records):
        columns.append(("element", True, element_text))
    if width >= WIDE:
        columns.append(("writes", False, lambda r: ", ".join(f"{s} {n:,}" for s, n in r.counts.items())))
    if width >= NARROW:
        columns.append(("winner", False, lambda r: r.winner))
        columns.append(("why", False, lambda r: r.rule + _doubt(r)))
    else:
        columns.append(("winner", False, lambda r: r.winner + _doubt(r)))
    return [*columns, ("outcome", False, lambda r: r.outcome)]


def _doubt(record: "ConflictRecord") -> str:
    return "" if record.certain else "?"


def _show_one(job: "Job", store: "Store", id: int, as_json: bool) -> None:
    from rich.table import Table
    from rich.text import Text

    from bisync.conflicts import as_document, lines_about, lines_of_value, write_time
    from bisync.text import readable

    record = _record(job, store, id)
    if as_json:
        click.echo(json.dumps(as_document(record), indent=2))
        return
    console = _console()
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    for title, text in [*lines_about(record), *lines_of_value(record)]:
        table.add_row(Text(title), Text(text, STYLES.get(text, ""), overflow="fold"))
    console.print(table)
    total = sum(record.counts.values())
    which = "all" if len(record.writes) >= total else f"the first and the last of {total:,}"
    console.print(Text(f"\nwrites, oldest first ({which}):"))
    for write in record.writes:
        earliest, latest = write_time(write.earliest_us), write_time(write.latest_us)
        old = "held when the sites were compared" if write.command.startswith(b"HELD ") else "a key of the full copy"
        made = f"made between {earliest} and {latest}" if earliest and latest else old
        place = f"at {write.offset} of its stream, " if write.offset else ""
        console.print(Text(f"  {write.site}: {readable(write.command)}"), soft_wrap=True)
        console.print(Text(f"    {place}{made}", "dim"), soft_wrap=True)


def _record(job: "Job", store: "Store", id: int) -> "ConflictRecord":
    from bisync.errors import BisyncError

    record = store.conflicts.get(job.name, id)
    if record is None:
        hint = f"`bisync conflicts {job.path.name}` lists those it has; old ones leave the log"
        raise BisyncError(f"the log of job {job.name!r} has no conflict {id}", hint=hint)
    return record


def _undo(job: "Job", store: "Store", id: int, force: bool, as_json: bool) -> None:
    from bisync.status import read_report
    from bisync.undo import lines_about, undo

    done = undo(job, store, id, force=force)
    if as_json:
        document = {"id": id, "site": done.site, "written": done.written, "without_expiry": done.without_expiry}
        click.echo(json.dumps(document, indent=2))
        return
    running = read_report(job, int(time.time() * 1000)) is not None
    for line in lines_about(done, running=running):
        click.echo(line)

"""One command under way: its arguments, its database, and what it leaves for the replication stream."""

from collections.abc import Callable, Sequence
from typing import TypeAlias, TypeVar

import attrs

from bisync.testing.dataset import Database, Dataset, HashValue, SetValue, SortedSetValue, Value
from bisync.testing.simulated.number import parse_float, parse_int
from bisync.testing.simulated.reply import CommandError, not_a_float, not_an_integer, wrong_type

T = TypeVar("T", bytes, list[bytes], HashValue, SetValue, SortedSetValue)


class Call:
    """What a command works on. One object serves all commands of a connection, one after the other.

    A command that changes something calls one of `put`, `update`, `delete` or `changed`, and is then propagated as the
    client wrote it, or as `rewrite` says.
    """

    __slots__ = ("args", "data", "database", "dirty", "rewritten")

    def __init__(self, data: Dataset) -> None:
        self.data = data
        self.database = data.databases[0]  # the selected one
        self.args: Sequence[bytes] = ()  # with the command's name first
        self.dirty = False  # has it changed anything?
        self.rewritten: Sequence[bytes] | None = None  # what to propagate in its place

    # -- reading
    def get(self, key: bytes) -> Value | None:
        """The value of a key, of any type; an expired one is deleted on the way."""
        return self.data.get(self.database, key)

    def typed(self, key: bytes, kind: type[T]) -> T | None:
        """The value of a key that must be of this type. Raises CommandError WRONGTYPE."""
        value = self.data.get(self.database, key)
        if value is not None and type(value) is not kind:
            raise wrong_type()
        return value

    def integer(self, at: int, error: CommandError | None = None) -> int:
        """The argument at this place as an integer. Raises CommandError."""
        number = parse_int(self.args[at])
        if number is None:
            raise error or not_an_integer()
        return number

    def count(self, at: int) -> int:
        """The argument at this place as a number of elements, not negative. Raises CommandError."""
        error = CommandError(b"ERR value is out of range, must be positive")
        number = self.integer(at, error)
        if number < 0:
            raise error
        return number

    def float(self, at: int) -> float:
        """The argument at this place as a score. Raises CommandError."""
        number = parse_float(self.args[at])
        if number is None:
            raise not_a_float()
        return number

    def another_database(self, number: int) -> Database:
        """The database of this number. Raises CommandError where there is none."""
        if not 0 <= number < len(self.data.databases):
            raise CommandError(b"ERR DB index is out of range")
        return self.data.databases[number]

    # -- writing
    def changed(self, key: bytes, database: Database | None = None) -> None:
        """This key was changed: tell those who watch it, and propagate the command."""
        self.data.touch(database or self.database, key)
        self.dirty = True

    def put(self, key: bytes, value: Value, *, keep_expiry: bool = False) -> None:
        """Make this the value of the key, whatever was there (`setKey`)."""
        self.get(key)
        if not keep_expiry:
            self.database.expires.pop(key, None)
        self.database.values[key] = value
        self.changed(key)

    def update(self, key: bytes, value: Value) -> None:
        """The value of a key was changed in place, or is its first; an empty collection goes. The expiry stays."""
        if value or type(value) is bytes:
            self.database.values[key] = value
        else:
            self.database.remove(key)
        self.changed(key)

    def delete(self, key: bytes) -> bool:
        """Delete a key, whether it has expired or not. Was it there?"""
        if not self.database.remove(key):
            return False
        self.changed(key)
        return True

    def rewrite(self, *args: bytes | int) -> None:
        """Propagate this in place of what the client wrote."""
        self.rewritten = [b"%d" % a if isinstance(a, int) else a for a in args]


Handler: TypeAlias = Callable[[Call], bytes]
"""Carries out a command and returns its reply. Raises CommandError."""


@attrs.frozen
class Command:
    """An entry of the command table."""

    name: bytes  # in capitals
    arity: int  # number of words, name included; negative: at least so many
    write: bool  # may it change data? Such commands can be refused
    run: Handler

    def takes(self, words: int) -> bool:
        """Is this number of words, name included, right?"""
        return words == self.arity if self.arity > 0 else words >= -self.arity


class Table(dict[bytes, Command]):
    """Commands by name."""

    def command(self, name: bytes, arity: int, *, write: bool = False) -> Callable[[Handler], Handler]:
        """Enters the decorated function for this command."""

        def enter(run: Handler) -> Handler:
            self[name] = Command(name, arity, write, run)
            return run

        return enter

    def read(self, name: bytes, arity: int) -> Callable[[Handler], Handler]:
        """Enters a command that only reads."""
        return self.command(name, arity)

    def write(self, name: bytes, arity: int) -> Callable[[Handler], Handler]:
        """Enters a command that may change data."""
        return self.command(name, arity, write=True)

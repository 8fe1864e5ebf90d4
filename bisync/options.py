"""Reading tables of options into attrs classes, with every mistake and its place.

cattrs structures the document and goes on after a mistake; here its exception group becomes sentences. An option's
metadata say how its value is read: `reads` returns the value or raises ValueError that says what would be right, and
`right` is what a missing option should have been.
"""

import difflib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import attrs
import cattrs
from cattrs.errors import (
    AttributeValidationNote,
    BaseValidationError,
    ForbiddenExtraKeysError,
    IterableValidationError,
    IterableValidationNote,
)
from cattrs.gen import make_dict_structure_fn, override

from bisync.endpoint import shown_url

T = TypeVar("T")
Place = tuple[str | int, ...]  # the keys, and the indices in arrays, that lead to a value in the document
Metadata = dict[str, Any]

SHOWN_MAX = 80  # characters of a value; the rest is cut
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


class WrongPlace(ValueError):
    """The key of a table is wrong, or the kind of the value: the value itself is not worth showing."""


@attrs.frozen
class Mistake:
    """A value that cannot be used. `shows_value` is false where the place alone says all, or may show too much."""

    place: Place
    right: str  # what would be right
    shows_value: bool = True

    def describe(self, document: Mapping[str, Any]) -> str:
        """One line: place, value (of a URL only what cannot be a password) and what would be right."""
        value = (
            f" = {_shown(_value_at(document, self.place), is_url=self.place[-1:] == ('url',))}"
            if self.shows_value
            else ""
        )
        return f"{shown_place(self.place)}{value}: {self.right}"


def option(reads: Callable[[Any], Any], right: str = "") -> Metadata:
    """Metadata of an option that `reads` reads; one that may be left out needs no `right`."""
    return {"reads": reads, "right": right}


def text(right: str) -> Metadata:
    """Metadata of an option that is any text but none."""

    def reads(value: Any) -> str:
        if not isinstance(value, str) or not value:
            raise ValueError(f"expected {right}")
        return value

    return option(reads, right)


def one_of(*values: str) -> Metadata:
    """Metadata of an option with a few values to choose from."""
    right = f"{', '.join(map(repr, values[:-1]))} or {values[-1]!r}"

    def reads(value: Any) -> str:
        if value not in values:
            raise ValueError(f"expected {right}{did_you_mean(value, values)}")
        return str(value)

    return option(reads, right)


def whole(low: int, high: int, unit: str, *, zero: str = "") -> Metadata:
    """Metadata of an option that is a number of `unit` from `low` to `high`; `zero` says what 0 means beside them."""
    right = f"a whole number of {unit} from {low:,} to {high:,}" + (f", or 0: {zero}" if zero else "")

    def reads(value: Any) -> int:
        # TOML's true is an int to Python.
        if type(value) is not int or not (low <= value <= high or (zero and value == 0)):
            raise ValueError(f"expected {right}")
        return value

    return option(reads, right)


def flag() -> Metadata:
    """Metadata of an option that is true or false."""

    def reads(value: Any) -> bool:
        if not isinstance(value, bool):
            raise ValueError("expected true or false, without quotes")
        return value

    return option(reads)


def did_you_mean(word: object, known: Iterable[str]) -> str:
    """The nearest known word as a question; nothing where none is near."""
    near = difflib.get_close_matches(word.lower(), list(known), n=1) if isinstance(word, str) else []
    return f"; did you mean {near[0]!r}?" if near else ""


def structure(value: Any, cls: type[T]) -> T:
    """Read a table as an object of the attrs class `cls`. Raises the exceptions that `read` explains."""
    return _CONVERTER.structure(value, cls)


def table_of(value: Mapping[str, Any], key: Callable[[str], Any], item: Callable[[Any], Any]) -> dict[Any, Any]:
    """A table with keys of the user's choice, each read by `key`, and its value by `item`. Raises as `structure`."""
    pairs = [(name, reads, part) for name, v in value.items() for reads, part in ((key, name), (item, v))]
    read_all = _collect(pairs, dict)
    return dict(zip(read_all[::2], read_all[1::2], strict=True))


def array_of(value: Sequence[Any], item: Callable[[Any], Any]) -> tuple[Any, ...]:
    """An array, each element read by `item`. Raises as `structure`."""
    return tuple(_collect([(i, item, v) for i, v in enumerate(value)], list))


def read(document: Mapping[str, Any], cls: type[T]) -> tuple[T | None, list[Mistake]]:
    """A document as an object of the attrs class `cls`, or None and what is wrong with it."""
    try:
        return _CONVERTER.structure(document, cls), []
    except BaseValidationError as e:
        return None, list(_mistakes(e, ()))


def shown_place(place: Place) -> str:
    """A place as a person writes it: `sites.east.url`, `objects.include[2]`."""
    shown = ""
    for part in place:
        if isinstance(part, int):
            shown += f"[{part}]"
        else:
            shown += f".{part}" if _BARE_KEY.fullmatch(part) else f".{_shown(part)}"
    return shown.removeprefix(".")


def _table_hook(cls: type[T]) -> Callable[[Any, Any], T]:
    """How the class of a table is structured: each option with its own reader, unknown keys refused."""
    readers = {a.name: a.metadata["reads"] for a in _fields(cls) if "reads" in a.metadata}
    overrides: dict[str, Any] = {name: override(struct_hook=_hook(reads)) for name, reads in readers.items()}
    fill = make_dict_structure_fn(
        cls, _CONVERTER, _cattrs_forbid_extra_keys=True, _cattrs_detailed_validation=True, **overrides
    )

    def hook(value: Any, wanted: Any) -> T:
        if not isinstance(value, dict):
            raise WrongPlace(f"expected a table with {_listed(_names(cls))}, not {kind(value)}")
        return fill(value, wanted)

    return hook


def _collect(parts: Iterable[tuple[str | int, Callable[[Any], Any], Any]], wanted: type) -> list[Any]:
    """Read (place, reader, value) one by one, and raise what went wrong with all of them as cattrs does."""
    good, wrong = [], []
    for place, reads, value in parts:
        try:
            good.append(reads(value))
        except (ValueError, BaseValidationError) as e:
            e.add_note(IterableValidationNote("", place, wanted))
            wrong.append(e)
    if wrong:
        raise IterableValidationError("", wrong, wanted)
    return good


def _hook(reads: Callable[[Any], Any]) -> Callable[[Any, Any], Any]:
    """A reader as cattrs wants it: with the type as a second argument."""
    return lambda value, _: reads(value)


_CONVERTER = cattrs.Converter(detailed_validation=True)
_CONVERTER.register_structure_hook_factory(attrs.has, _table_hook)


def _mistakes(error: BaseException, place: Place, missing: str = "") -> Iterator[Mistake]:
    """The mistakes in what cattrs raised at `place`; `missing` is what an absent option should have been."""
    if isinstance(error, BaseValidationError):
        for inner in error.exceptions:
            step = _step(inner)
            yield from _mistakes(inner, (*place, *step), _right(error.cl, step))
    elif isinstance(error, ForbiddenExtraKeysError):
        known = _names(error.cl)
        for name in sorted(error.extra_fields):
            # Its value is not shown: it may be a password under a name that we do not know.
            right = f"unknown; known here: {_listed(known)}{did_you_mean(name, known)}"
            yield Mistake((*place, name), right, shows_value=False)
    elif isinstance(error, KeyError):
        yield Mistake(place, f"missing; expected {missing}", shows_value=False)
    elif isinstance(error, ValueError):
        yield Mistake(place, str(error), shows_value=not isinstance(error, WrongPlace))
    else:
        raise error  # a bug of ours: readers raise ValueError


def _step(error: BaseException) -> Place:
    """From the place of a group of exceptions to that of one in it: the note that cattrs has left."""
    for note in getattr(error, "__notes__", ()):
        if isinstance(note, AttributeValidationNote):
            return (note.name,)
        if isinstance(note, IterableValidationNote):
            return (note.index,)
    return ()


def _right(cls: Any, step: Place) -> str:
    """What an option of a table's class is expected to be."""
    if not step or not attrs.has(cls):
        return ""
    return str(attrs.fields_dict(cls)[str(step[0])].metadata.get("right", "a table"))


def _names(cls: Any) -> list[str]:
    return [a.name for a in _fields(cls)]


def _fields(cls: Any) -> tuple[Any, ...]:
    return tuple(attrs.fields(cls))


def _listed(words: Sequence[str]) -> str:
    return ", ".join(words)


def _value_at(document: Any, place: Place) -> Any:
    for part in place:
        document = document[part]
    return document


def kind(value: Any) -> str:
    """What a value is, in TOML's words."""
    kinds = {dict: "a table", list: "an array", str: "a string", bool: "a boolean", int: "a number", float: "a number"}
    return kinds.get(type(value), "a date or a time")


def _shown(value: Any, *, is_url: bool = False) -> str:
    """A value, cut to one short line, and of a URL only what cannot be a password."""
    if isinstance(value, (dict, list)):
        return kind(value)
    if isinstance(value, str):
        value = repr(shown_url(value) if is_url or "://" in value or "@" in value else value)
    elif isinstance(value, bool):
        value = str(value).lower()
    elif isinstance(value, int) and abs(value) >= 10**SHOWN_MAX:
        return "a number of very many digits"  # too many to write out are an error in Python
    else:
        value = str(value)
    return value if len(value) <= SHOWN_MAX else f"{value[:SHOWN_MAX]}..."

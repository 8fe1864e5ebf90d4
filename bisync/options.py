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
from cattrs.errors import AttributeValidationNote, BaseValidationError, ForbiddenExtraKeysError, IterableValidationNote
from cattrs.gen import make_dict_structure_fn, override

from bisync.endpoint import shown_url

T = TypeVar("T")
Place = tuple[str | int, ...]  # the keys, and the indices in arrays, that lead to a value in the document
Metadata = dict[str, Any]

SHOWN_MAX = 80  # characters of a value; the rest is cut
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


class WrongKey(ValueError):
    """It is the key of a table that is wrong, not its value."""


@attrs.frozen
class Mistake:
    """A value that cannot be used. `shows_value` is false where the place alone says all, or may show too much."""

    place: Place
    right: str  # what would be right
    shows_value: bool = True

    def describe(self, document: Mapping[str, Any]) -> str:
        """One line: place, value (of a URL only what cannot be a password) and what would be right."""
        value = f" = {_shown(_value_at(document, self.place))}" if self.shows_value else ""
        return f"{shown_place(self.place)}{value}: {self.right}"


def option(reads: Callable[[Any], Any], right: str) -> Metadata:
    """Metadata of an option that `reads` reads."""
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


def did_you_mean(word: object, known: Iterable[str]) -> str:
    """The nearest known word as a question; nothing where none is near."""
    near = difflib.get_close_matches(word.lower(), list(known), n=1) if isinstance(word, str) else []
    return f"; did you mean {near[0]!r}?" if near else ""


def structure(value: Any, wanted: Any) -> Any:
    """Read `value` as a `wanted`; for options that hold tables or arrays. Raises the exceptions that `read` explains."""
    return _CONVERTER.structure(value, wanted)


def read(document: Mapping[str, Any], cls: type[T]) -> tuple[T | None, list[Mistake]]:
    """A document as an object of the attrs class `cls`, or None and what is wrong with it."""
    try:
        return _CONVERTER.structure(document, cls), []
    except BaseValidationError as e:
        return None, list(_mistakes(e, ()))


def register_key(name: Any, reads: Callable[[str], Any]) -> None:
    """Let `reads` read what has the type `name` (a NewType), such as the keys of a table."""
    _CONVERTER.register_structure_hook(name, lambda value, _: reads(value))


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
    overrides = {
        a.name: override(struct_hook=lambda value, _, reads=a.metadata["reads"]: reads(value))
        for a in attrs.fields(cls)  # type: ignore[arg-type]  # cattrs promises a class, attrs.has has said it is ours
        if "reads" in a.metadata
    }
    fill = make_dict_structure_fn(
        cls, _CONVERTER, _cattrs_forbid_extra_keys=True, _cattrs_detailed_validation=True, **overrides
    )

    def hook(value: Any, wanted: Any) -> T:
        if not isinstance(value, dict):
            raise ValueError(f"expected a table with {_listed(_names(cls))}")
        return fill(value, wanted)

    return hook


_CONVERTER = cattrs.Converter(detailed_validation=True)
_CONVERTER.register_structure_hook_factory(attrs.has, _table_hook)


def _mistakes(error: BaseException, place: Place) -> Iterator[Mistake]:
    """The mistakes in an exception (group) of cattrs; `place` is where it was raised."""
    if isinstance(error, BaseValidationError):
        for inner in error.exceptions:
            yield from _mistakes(inner, (*place, *_step(inner)))
    elif isinstance(error, ForbiddenExtraKeysError):
        known = _names(error.cl)
        for name in sorted(error.extra_fields):
            # Its value is not shown: it may be a password under a name that we do not know.
            right = f"unknown{did_you_mean(name, known)} Known here: {_listed(known)}"
            yield Mistake((*place, name), right if "?" in right else right.replace(" Known", "; known"), False)
    elif isinstance(error, KeyError):
        yield Mistake(place, "missing", False)
    else:
        yield Mistake(place, str(error), not isinstance(error, WrongKey))

"""Passwords that are kept outside the job file: in a variable of the environment, or in a file.

They are read anew for each connection, so that a file may be changed while an engine runs. The text is taken as it
stands, nothing in it is decoded; one line end after it is not part of it. Messages name the option and never show what
was read, nor the name of the variable or the file, for which somebody may have written the password itself.
"""

import os
import stat
from pathlib import Path

import attrs

HIDDEN = "***"
BYTES_MAX = 16 << 10  # of a password; tokens of cloud services have a few thousand
OTHERS = stat.S_IRWXO | stat.S_IWGRP  # rights on a file with a secret that nobody should have; its group may read


class Secret:
    """A password. Its text comes out of `reveal` alone, so that no log, traceback or repr shows it by accident."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """The password itself."""
        return self._text

    def __repr__(self) -> str:
        return HIDDEN

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._text == self._text

    def __hash__(self) -> int:
        return hash(self._text)

    def __reduce__(self) -> str:
        raise TypeError("a password is not pickled")


@attrs.frozen
class Kept:
    """Where a password is kept: in the file `path`, or else in the variable `variable`."""

    option: str  # of the job file, which says so
    variable: str = ""
    path: Path | None = None

    def __repr__(self) -> str:
        return f"<Kept by {self.option}>"

    def read(self) -> Secret:
        """The text. Raises ValueError that says what is wrong and what to do."""
        data = self._from_file(self.path) if self.path is not None else os.environb.get(os.fsencode(self.variable))
        if data is None:
            raise ValueError("there is no such variable in the environment; set it where bisync is started")
        if len(data) > BYTES_MAX:
            raise ValueError(f"there are more than {BYTES_MAX:,} bytes; expected a password and nothing else")
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError:
            raise ValueError("what is there is not UTF-8; expected a password and nothing else") from None
        text = text.removesuffix("\n").removesuffix("\r")
        if not text:
            raise ValueError("what is there is empty; expected a password")
        if "\n" in text or "\0" in text:
            raise ValueError("what is there has more than one line; expected a password and nothing else")
        return Secret(text)

    def _from_file(self, path: Path) -> bytes:
        try:
            with path.open("rb") as file:
                return file.read(BYTES_MAX + 1)
        except FileNotFoundError:
            raise ValueError("there is no such file; a relative path begins at the job file's folder") from None
        except (OSError, ValueError) as e:
            why = e.strerror if isinstance(e, OSError) else "no path of a file"
            raise ValueError(f"the file cannot be read: {why}; let the account that runs bisync read it") from None


def open_to_others(path: Path) -> str:
    """The rights on a file as `chmod` takes them, where more than its owner and its group can read it; else nothing."""
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except (OSError, ValueError):
        return ""
    return f"{mode:04o}" if mode & OTHERS else ""

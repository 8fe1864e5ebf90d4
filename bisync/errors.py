"""Every error that a user may meet. Each says what happened, why, and the next step.

Few types on purpose: a type exists only where a caller acts differently on it. Library exceptions become one of
these at the edge where the library is called. Texts never hold a password.
"""

from collections.abc import Sequence


class BisyncError(Exception):
    """Something bisync cannot do or keep.

    `what` is one sentence that names the place and the value, `why` the reason where it is known, `hint` the user's
    next step. `exit_code` is what the command line ends with.
    """

    exit_code = 1

    def __init__(self, what: str, *, why: str = "", hint: str = "") -> None:
        super().__init__(what)
        self.what, self.why, self.hint = what, why, hint

    def __str__(self) -> str:
        reason = f" ({self.why})" if self.why else ""
        step = f" Next: {self.hint}" if self.hint else ""
        return f"{self.what}{reason}.{step}"


def said(error: BaseException) -> str:
    """What an exception of a library says, without the number that Python puts before it ("[Errno 2] ...")."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return text or type(error).__name__


class JobFileError(BisyncError):
    """A job file that cannot be used. `mistakes` lists all of them, each with its place and what would be right."""

    exit_code = 2

    def __init__(self, path: str, mistakes: Sequence[str]) -> None:
        self.path, self.mistakes = path, tuple(mistakes)
        number = f"{len(self.mistakes)} mistake{'s' if len(self.mistakes) != 1 else ''}"
        super().__init__(f"{path}: {number} in the job file", hint="mend the file and run the command again")

    def __str__(self) -> str:
        return "\n".join([f"{self.what}:", *(f"  - {m}" for m in self.mistakes), f"Next: {self.hint}."])


class StreamError(BisyncError):
    """Bytes that are no replication stream: a damaged connection, a damaged journal, or not a Redis server.

    `site` is whose stream it was, where it is known.
    """

    site = ""


class RdbError(BisyncError):
    """Bytes that are no RDB, or one that is damaged or too new. `offset` is where, in bytes from its start."""

    def __init__(self, what: str, *, offset: int, why: str = "", hint: str = "") -> None:
        super().__init__(f"{what} at byte {offset}", why=why, hint=hint)
        self.offset = offset


class SiteError(BisyncError):
    """A site that cannot be reached or used. `heals` says whether waiting and trying again may help."""

    def __init__(self, site: str, what: str, *, why: str = "", hint: str = "", heals: bool = True) -> None:
        super().__init__(f"{site}: {what}", why=why, hint=hint)
        self.site, self.heals = site, heals


class HistoryGap(SiteError):
    """A site no longer has the part of its replication stream that bisync must read next.

    `new_history`: its server was restarted or replaced, so it may have lost writes as well; else only its backlog was
    too small.
    """

    def __init__(self, site: str, what: str, *, why: str = "", hint: str = "", new_history: bool = True) -> None:
        super().__init__(site, what, why=why, hint=hint, heals=False)
        self.new_history = new_history


class Superseded(BisyncError):
    """Another engine has taken this job; this one must not write any more."""

    exit_code = 3


class TagLost(BisyncError):
    """The tag at a site is gone or old, and no other engine took it: bisync starts over from what it remembers."""


class StoreError(BisyncError):
    """The checkpoint store cannot be used. The sync itself does not depend on it: the tags are what counts.

    `heals` says whether the same may succeed later with nobody's help but a look at the disk, as where it is full.
    """

    def __init__(self, what: str, *, why: str = "", hint: str = "", heals: bool = False) -> None:
        super().__init__(what, why=why, hint=hint)
        self.heals = heals

"""When several tasks fail at once, the one error that says why."""

import contextlib
from collections.abc import Iterator

import trio

from bisync.errors import BisyncError, SiteError, StreamError, Superseded, TagLost


@contextlib.contextmanager
def single_error() -> Iterator[None]:
    """Of the errors of several tasks, the one that matters most: superseded before fatal before what heals."""
    try:
        yield
    except BaseExceptionGroup as group:
        errors = list(_leaves(group))
        unknown = [e for e in errors if not isinstance(e, (BisyncError, trio.Cancelled))]
        if unknown or not errors:
            raise
        ours = [e for e in errors if isinstance(e, BisyncError)]
        if not ours:
            raise
        raise min(ours, key=_weight) from None


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for e in group.exceptions:
        if isinstance(e, BaseExceptionGroup):
            yield from _leaves(e)
        else:
            yield e


def _weight(error: BisyncError) -> int:
    if isinstance(error, Superseded):
        return 0
    if isinstance(error, (StreamError, TagLost)):
        return 2
    return 3 if isinstance(error, SiteError) and error.heals else 1

"""What the core asks of the shell, as values, so that a test can compare them."""

import attrs


@attrs.frozen(slots=True)
class Send:
    """Send these bytes to the target of the channel that reads `origin`, and hand back that many replies."""

    origin: str
    payload: bytes = attrs.field(repr=lambda b: f"<{len(b)} bytes>")
    replies: int


@attrs.frozen(slots=True)
class Checkpoint:
    """This tag is committed at the target: mirror it in the store."""

    channel: str
    tag: bytes


@attrs.frozen(slots=True)
class Notice:
    """Something a person may want to know: for the log and the list of events."""

    level: str  # info, warning, error
    kind: str  # one word for programs
    text: str


@attrs.frozen(slots=True)
class Conflict:
    """A unit was settled."""

    database: int
    key: bytes
    element: tuple[str, bytes] | None
    winner: str  # a site


Action = Send | Checkpoint | Notice | Conflict

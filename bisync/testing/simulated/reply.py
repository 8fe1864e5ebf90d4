"""Replies of a server, as bytes of RESP 2, and the errors that commands raise. Texts: `server.c`, Redis 7.0."""

from collections.abc import Sequence

OK, PONG, QUEUED = b"+OK\r\n", b"+PONG\r\n", b"+QUEUED\r\n"
NIL, NIL_ARRAY, EMPTY_ARRAY = b"$-1\r\n", b"*-1\r\n", b"*0\r\n"


class CommandError(Exception):
    """A command that failed. `text` is the error reply without its minus sign, prefix word first."""

    def __init__(self, text: bytes) -> None:
        super().__init__(text)
        self.text = text


def wrong_type() -> CommandError:
    """The key holds another type of value than the command is for."""
    return CommandError(b"WRONGTYPE Operation against a key holding the wrong kind of value")


def syntax_error() -> CommandError:
    """The command has an option that it does not know, or two that exclude each other."""
    return CommandError(b"ERR syntax error")


def not_an_integer() -> CommandError:
    """An argument, or a value to be counted up, is no 64-bit integer."""
    return CommandError(b"ERR value is not an integer or out of range")


def not_a_float() -> CommandError:
    """An argument, or a value to be counted up, is no number."""
    return CommandError(b"ERR value is not a valid float")


def no_such_key() -> CommandError:
    """The command needs a key that is not there."""
    return CommandError(b"ERR no such key")


def wrong_arity(name: bytes) -> CommandError:
    """Too few or too many arguments. `name` is that of the command."""
    return CommandError(b"ERR wrong number of arguments for '%s' command" % name.lower())


def error(text: bytes) -> bytes:
    """An error reply. An error is one line, whatever the client sent."""
    return b"-" + text.replace(b"\r", b" ").replace(b"\n", b" ") + b"\r\n"


def integer(number: int) -> bytes:
    """An integer reply."""
    return b":%d\r\n" % number


def bulk(content: bytes | None) -> bytes:
    """A bulk reply; None is the null one."""
    return NIL if content is None else b"$%d\r\n%s\r\n" % (len(content), content)


def array(replies: Sequence[bytes]) -> bytes:
    """An array of replies that are encoded already."""
    return b"*%d\r\n%s" % (len(replies), b"".join(replies))


def bulks(contents: Sequence[bytes | None]) -> bytes:
    """An array of bulk replies."""
    return array([bulk(content) for content in contents])

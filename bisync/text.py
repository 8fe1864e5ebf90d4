"""Bytes of Redis as text for people and for JSON."""


def readable(data: bytes) -> str:
    r"""`data` as text: UTF-8 where it is, and \xNN for each byte that is not, or that a terminal would act on.

    A backslash is doubled, so that two different keys never look the same.
    """
    text = data.replace(b"\\", b"\\\\").decode("utf-8", errors="backslashreplace")
    return "".join(c if c.isprintable() else "".join(f"\\x{b:02x}" for b in c.encode()) for c in text)

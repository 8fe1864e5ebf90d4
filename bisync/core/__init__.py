"""The rules of bisync. No I/O here: bytes and times come in, actions come out."""

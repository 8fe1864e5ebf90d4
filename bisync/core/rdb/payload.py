"""RESTORE payloads: a value's bytes as in an RDB, with what DUMP puts around them."""

from anycrc import Model  # type: ignore[import-untyped]

# CRC-64 of Redis ("Jones"), `src/crc64.c`. The second argument of `calc` is the sum so far.
crc64 = Model("CRC64-REDIS").calc


_BYTES = [bytes((n,)) for n in range(256)]
_SMALL = 16 * 1024  # below it, a call more of crc64 costs more than a copy of the bytes


def dump_payload(type: int, body: bytes, version: int, metadata: bytes = b"") -> bytes:
    """What DUMP would reply for a value: type byte, body, RDB version, CRC-64 (`createDumpPayload` in `cluster.c`).

    `type` is the RDB type byte, `body` the value's bytes as in the RDB, `version` the RDB version they were written
    for (a server refuses a payload of a newer version than its own), `metadata` what modules attached to the key, with
    its opcode.
    """
    checksum: int
    if len(body) < _SMALL and not metadata:
        content = _BYTES[type] + body + version.to_bytes(2, "little")
        checksum = crc64(content)
        return content + checksum.to_bytes(8, "little")
    kind, footer = metadata + bytes((type,)), version.to_bytes(2, "little")
    # Summed in three steps and joined once: a body may have gigabytes.
    checksum = crc64(footer, crc64(body, crc64(kind)))
    return b"".join((kind, body, footer, checksum.to_bytes(8, "little")))

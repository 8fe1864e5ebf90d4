"""Hash templates: field names that many hashes share (Redis 8.10, `hash-min-template-entries`).

An RDB has each template once, before all keys, and the hashes refer to it by its number; DUMP puts the names into each
payload. Source: `rdbSaveHashTemplates` and `rdbLoadTemplateFields` in Redis 8.10 `src/rdb.c`.
"""

from typing import Final

from bisync.core.rdb import layouts
from bisync.core.rdb.encoding import SHORT, length_at, length_of, string_at
from bisync.core.rdb.values import string_list, template_number
from bisync.core.rdb.window import Waits, Window

WITH_FIELDS: Final = {  # what an RDB holds: what DUMP holds
    layouts.HASH_TEMPLATE_LISTPACK_REF: layouts.HASH_TEMPLATE_LISTPACK,
    layouts.HASH_TEMPLATE_ARRAY_REF: layouts.HASH_TEMPLATE_ARRAY,
}
_ONE_BY_ONE = 1  # the field names come as strings, and not as a listpack


class HashTemplates:
    """The templates of one RDB: reads them, and completes the hashes that refer to them."""

    def __init__(self, window: Window) -> None:
        self._window = window
        self._bytes = 0

    def read(self) -> Waits[None]:
        """The template that comes next. Raises RdbError where they are too many to keep."""
        window = self._window
        number = yield from window.length()
        fields = yield from string_list(window)
        self._bytes += 100 + sum(map(len, fields)) + 50 * len(fields)
        if self._bytes > window.max_value_bytes:
            raise window.error("too many hash templates", why=f"the limit is {window.max_value_bytes} bytes")
        window.templates[number] = fields

    def completed(self, type: int, body: bytes) -> bytes:
        """The body of a hash that refers to its template, as DUMP would give it: with the field names in it."""
        window = self._window
        try:
            if type == layouts.HASH_TEMPLATE_ARRAY_REF:
                number, start = length_at(body, 0)
            else:
                packed, _ = string_at(body, 0, window.max_value_bytes)
                number, start = template_number(window, packed), 0
        except (*SHORT, ValueError) as e:
            raise window.error("a damaged hash", why=str(e)) from None
        fields = layouts.template(window, number)
        names = b"".join(length_of(len(field)) + field for field in fields)
        return length_of(_ONE_BY_ONE) + length_of(len(fields)) + names + body[start:]

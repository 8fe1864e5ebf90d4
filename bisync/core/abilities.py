"""What a site's server can do, as its refusals have shown.

Old servers lack commands, and accounts lack permissions. Nobody asks for a version: the best way is tried, and where it
is refused the next best is taken from then on, for as long as this life of the engine lasts.
"""

import re

import attrs

FALLBACKS = frozenset((b"MEMORY", b"PEXPIRETIME", b"UNLINK", b"HPEXPIRETIME", b"HPEXPIREAT", b"XINFO"))
"""Commands without which a round can be carried out too."""

_REFUSED = re.compile(r"(?:unknown command|permissions to run the) [`'\"]([A-Za-z]+)")
_NO_RESTORE = ("DUMP payload version", "Bad data format")
_NO_OPTION = ("ERR syntax error", "ERR wrong number of arguments for 'restore'")  # the second from 2.8
_NO_FULL = "for 'STREAM'. Try XINFO HELP"


@attrs.define
class Abilities:
    """What is known of one site."""

    lacks: set[bytes] = attrs.field(factory=set)  # commands, in capitals; XINFO: only its FULL (from 6.0)
    restores: bool = True  # RESTORE takes what the other site dumps
    options: int = 2  # how many RESTORE knows of REPLACE (from 3.0) and ABSTTL (from 5.0)
    lessons: int = 0  # grows with each that was learnt

    def has(self, command: bytes) -> bool:
        """May this command be tried?"""
        return command not in self.lacks

    def learn(self, text: str) -> None:
        """From an error reply of the site: where that is news and there is another way, `lessons` grows."""
        refused = _REFUSED.search(text)
        if refused is not None:
            self._learn_without(refused[1].upper().encode())
        elif _NO_FULL in text:
            self._learn_without(b"XINFO")
        elif any(words in text for words in _NO_RESTORE) and self.restores:
            self.restores = False
            self.lessons += 1
        elif text.startswith(_NO_OPTION) and self.options:
            self.options -= 1
            self.lessons += 1

    def _learn_without(self, command: bytes) -> None:
        if command in FALLBACKS and command not in self.lacks:
            self.lacks.add(command)
            self.lessons += 1

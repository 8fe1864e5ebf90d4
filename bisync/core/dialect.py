"""A command as an older server knows it.

The program's own words are those of the newest servers: SET ... PXAT, RESTORE ... REPLACE ABSTTL, UNLINK. What a server
lacks is said in one command all the same, as each must have one reply: by a script, which takes effect as a whole. (Its
text is in small letters: a deletion in capitals is the server's own, see `echo`.)

Since when a server knows a word is in the documentation of each command.
"""

from collections.abc import Sequence

from bisync.core.server import Server

Words = Sequence[bytes | int]

_SET = b"return{redis.call('set',KEYS[1],ARGV[1]),redis.call('pexpireat',KEYS[1],ARGV[2])}"
_SET_KEEPING = b"""
local left = redis.call('pttl', KEYS[1])
local done = redis.call('set', KEYS[1], ARGV[1])
if left > 0 then redis.call('pexpire', KEYS[1], left) end
return done
"""
_RESTORE = b"""
redis.call('del', KEYS[1])
local done = redis.call('restore', KEYS[1], '0', ARGV[1])
if ARGV[2] ~= '0' then redis.call('pexpireat', KEYS[1], ARGV[2]) end
return done
"""


def spoken(args: Sequence[bytes], server: Server) -> Words:
    """The command for this server: the same words, or others that do the same there."""
    match args[0].upper():
        case b"UNLINK" | b"DEL" as name:
            return b"unlink" if name == b"UNLINK" and server.since(4, 0) else b"del", *args[1:]
        case b"SET" if len(args) == 5 and args[3].upper() == b"PXAT" and not server.since(6, 2):
            return b"EVAL", _SET, 1, args[1], args[2], args[4]
        case b"SET" if len(args) == 4 and args[3].upper() == b"KEEPTTL" and not server.since(6, 0):
            return b"EVAL", _SET_KEEPING, 1, args[1], args[2]
        case b"HSETEX" if not server.expires_fields and [a.upper() for a in args[2:4]] == [b"KEEPTTL", b"FIELDS"]:
            return b"HMSET", args[1], *args[5:]
        case b"XGROUP" if not server.since(7, 0) and len(args) > 6 and args[-2].upper() == b"ENTRIESREAD":
            return args[:-2]
        case b"XSETID" if not server.since(7, 0) and len(args) > 3:
            return args[:3]
        case b"RESTORE" if not server.since(5, 0) and {b"REPLACE", b"ABSTTL"} <= {word.upper() for word in args[4:]}:
            return b"EVAL", _RESTORE, 1, args[1], args[3], args[2]
        case b"LMOVE" if not server.since(6, 2) and [word.upper() for word in args[3:]] == [b"RIGHT", b"LEFT"]:
            return b"RPOPLPUSH", *args[1:3]
    return args

"""Streams are merged, not replaced: entries with lower ids than a stream's last one are refused, so each site may hold
entries that the other one never took.

The fence reads the authority's stream whole. At the other site one script makes of the stream there the union of both
by id; only what the server must be told goes into its replication stream, as the script's effects. Where that
site held something that the authority lacks, the next round goes the other way. A union only grows, so
without new writes that is the last one.

Of an entry with the same id and other words the authority's stands. Groups are the authority's too: which entries were
delivered, to whom, and when. What is not kept:

- An entry that was deleted or trimmed at one site, while the other could not know of it, may come back. A length limit
  (MAXLEN) may thus be exceeded until the next XADD trims again.
- Deliveries that the other site made in the meantime, as far as they did not reach the authority.
- When a consumer was last seen.

Before Redis 7.0 the numbers that a group's lag is computed from are not known, before 6.2 consumers that wait for
nothing are not.
"""

from collections.abc import Iterator, Mapping, Sequence

import attrs

from bisync.core.abilities import Abilities
from bisync.core.resp import pack
from bisync.core.restore import Ask, Copy, Loser, NotNow, Outcome, Unfit, digest, expiry, held_key

PIECE_BYTES = 1 << 20
"""About so many bytes go into one argument of the script."""

ENTRY_WORDS_MAX = 7_000
"""Lua hands no more words to one command (its stack has 8,000 places)."""


_STATE = b"""
local function map(flat)
  local found = {}
  for n = 1, #flat, 2 do found[flat[n]] = flat[n + 1] end
  return found
end
-- what XINFO STREAM FULL replies, which servers before 6.0 do not know
local function state(key)
  local info = redis.pcall('XINFO', 'STREAM', key, 'FULL', 'COUNT', '0')
  if not info.err then return info end
  local groups, time = {}, redis.call('TIME')
  local now_ms = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
  for n, flat in ipairs(redis.call('XINFO', 'GROUPS', key)) do
    local group, consumers, pending = map(flat), {}, {}
    for c, consumer in ipairs(redis.call('XINFO', 'CONSUMERS', key, group.name)) do consumers[c] = consumer end
    if group.pending > 0 then
      for p, e in ipairs(redis.call('XPENDING', key, group.name, '-', '+', group.pending)) do
        pending[p] = {e[1], e[2], now_ms - e[3], e[4]}
      end
    end
    groups[n] = {'name', group.name, 'last-delivered-id', group['last-delivered-id'],
      'consumers', consumers, 'pending', pending}
  end
  local last = map(redis.call('XINFO', 'STREAM', key))['last-generated-id']
  return {'last-generated-id', last, 'entries', redis.call('XRANGE', key, '-', '+'), 'groups', groups}
end
"""

_READ = _STATE + b"return state(KEYS[1])"

SCRIPT = _STATE + b"""
-- makes of the stream KEYS[1] the union with that in ARGV; it fails before it has written, or undoes what it wrote
local key, piece, at = KEYS[1], 1, 1
local function word()
  if at > #ARGV[piece] then piece, at = piece + 1, 1 end
  local found
  found, at = struct.unpack('>I4c0', ARGV[piece], at)
  return found
end
local function count() return tonumber(word()) end
local function text(n) return type(n) == 'number' and string.format('%.0f', n) or n or '' end
-- ids have 64 bits in each half, which numbers of Lua have not
local function below(a, b)
  local am, as = a:match('^(%d+)-(%d+)$')
  local bm, bs = b:match('^(%d+)-(%d+)$')
  if am == bm then am, bm = as, bs end
  if #am ~= #bm then return #am < #bm end
  return am < bm
end
local function highest(a, b) return (a == '' or b ~= '' and below(a, b)) and b or a end
local function same(a, b)
  if #a ~= #b then return false end
  for n = 1, #a do if a[n] ~= b[n] then return false end end
  return true
end

-- what the authority holds
local expires = word()
local theirs = {last = word(), added = word(), deleted = word(), groups = {}, entries = {}}
for n = 1, count() do
  local group = {name = word(), last = word(), read = word(), consumers = {}, pending = {}}
  for c = 1, count() do group.consumers[c] = word() end
  for p = 1, count() do group.pending[p] = {word(), word(), word(), word()} end
  theirs.groups[n] = group
end
for n = 1, count() do
  local entry = {word(), {}}
  for w = 1, count() do entry[2][w] = word() end
  theirs.entries[n] = entry
end

-- what this site holds
local kind = redis.call('TYPE', key).ok
local ours = {last = '0-0', added = '', deleted = '', groups = {}, entries = {}}
if kind == 'stream' then
  local info = map(state(key))
  ours.last, ours.entries = info['last-generated-id'], info['entries']
  ours.added, ours.deleted = text(info['entries-added']), info['max-deleted-entry-id'] or ''
  for n, flat in ipairs(info['groups']) do
    local found = map(flat)
    local group = {name = found['name'], last = found['last-delivered-id'], consumers = {}, pending = {}}
    group.read = text(found['entries-read'])
    for c, consumer in ipairs(found['consumers']) do group.consumers[c] = map(consumer)['name'] end
    for p, entry in ipairs(found['pending']) do
      group.pending[p] = {entry[1], entry[2], text(entry[3]), text(entry[4])}
    end
    ours.groups[n] = group
  end
end

-- the union of both by id
local union, fresh, held = {}, {}, {}
local extra, lost, rebuild = false, kind ~= 'stream', kind ~= 'stream'
local i, j = 1, 1
while ours.entries[i] or theirs.entries[j] do
  local mine, other = ours.entries[i], theirs.entries[j]
  local entry
  if mine and other and mine[1] == other[1] then
    if not same(mine[2], other[2]) then lost, rebuild = true, true end
    entry, i, j = other, i + 1, j + 1
  elseif other and (not mine or below(other[1], mine[1])) then
    if below(ours.last, other[1]) then fresh[#fresh + 1] = other else rebuild = true end
    entry, j = other, j + 1
  else
    extra, entry, i = true, mine, i + 1
  end
  if #entry[2] > 7000 then return redis.error_reply('ERR entry ' .. entry[1] .. ' has too many fields') end
  union[#union + 1] = entry
  held[entry[1]] = true
end
local last, deleted = highest(ours.last, theirs.last), highest(ours.deleted, theirs.deleted)
local added = math.max(tonumber(ours.added) or 0, tonumber(theirs.added) or 0, #union)
extra = extra or kind == 'stream' and theirs.added ~= '' and added > tonumber(theirs.added)

-- the groups that are not as the authority has them; what they wait for and no stream holds any more is put in and
-- taken out again, as nothing else can be claimed
local function told(group)
  local words = {group.name, group.last, group.read, text(#group.consumers)}
  for _, name in ipairs(group.consumers) do words[#words + 1] = name end
  for _, entry in ipairs(group.pending) do for _, w in ipairs(entry) do words[#words + 1] = w end end
  for n, w in ipairs(words) do words[n] = #w .. ':' .. w end
  return table.concat(words)
end
local present, wanted, remade, ghosts = {}, {}, {}, {}
for _, group in ipairs(ours.groups) do present[group.name] = told(group) end
for _, group in ipairs(theirs.groups) do
  wanted[group.name] = true
  if present[group.name] ~= told(group) then
    lost = lost or present[group.name] ~= nil
    remade[#remade + 1] = group
    for _, entry in ipairs(group.pending) do rebuild = rebuild or not held[entry[1]] end
  end
end
for name in pairs(present) do lost = lost or not wanted[name] end
local all = union
if rebuild then
  remade, all = theirs.groups, {}
  for _, group in ipairs(remade) do
    for _, entry in ipairs(group.pending) do
      if not held[entry[1]] then
        held[entry[1]] = true
        ghosts[#ghosts + 1] = {entry[1], {'', ''}}
      end
    end
  end
  table.sort(ghosts, function(a, b) return below(a[1], b[1]) end)
  local g = 1
  for _, entry in ipairs(union) do
    while ghosts[g] and below(ghosts[g][1], entry[1]) do all[#all + 1], g = ghosts[g], g + 1 end
    all[#all + 1] = entry
  end
  while ghosts[g] do all[#all + 1], g = ghosts[g], g + 1 end
end

local function make_group(group)
  if present[group.name] and not rebuild then redis.call('XGROUP', 'DESTROY', key, group.name) end
  local read = {}
  if group.read ~= '' then read = {'ENTRIESREAD', group.read} end
  local made = redis.pcall('XGROUP', 'CREATE', key, group.name, group.last, unpack(read))
  if made.err then redis.call('XGROUP', 'CREATE', key, group.name, group.last) end
  for _, name in ipairs(group.consumers) do redis.pcall('XGROUP', 'CREATECONSUMER', key, group.name, name) end
  for _, e in ipairs(group.pending) do
    redis.call('XCLAIM', key, group.name, e[2], '0', e[1], 'TIME', e[3], 'RETRYCOUNT', e[4], 'FORCE', 'JUSTID')
  end
end
local function take_out_ghosts()
  local first = union[1] and union[1][1]
  if not first then return redis.call('XTRIM', key, 'MAXLEN', '0') end
  if below(ghosts[1][1], first) then redis.pcall('XTRIM', key, 'MINID', '=', first) end
  for _, ghost in ipairs(ghosts) do redis.call('XDEL', key, ghost[1]) end
end
local function write()
  if rebuild then redis.call('del', key) end
  if rebuild and #all == 0 then
    redis.call('XGROUP', 'CREATE', key, 'bisync', '0', 'MKSTREAM')
    redis.call('XGROUP', 'DESTROY', key, 'bisync')
  end
  for _, entry in ipairs(rebuild and all or fresh) do redis.call('XADD', key, entry[1], unpack(entry[2])) end
  if not rebuild then
    for name in pairs(present) do if not wanted[name] then redis.call('XGROUP', 'DESTROY', key, name) end end
  end
  for _, group in ipairs(remade) do make_group(group) end
  if #ghosts > 0 then
    take_out_ghosts()
    deleted = highest(deleted, map(redis.call('XINFO', 'STREAM', key))['max-deleted-entry-id'] or '')
  end
  last = highest(last, deleted)  -- else XSETID refuses them
  if rebuild or #fresh > 0 or last ~= ours.last or deleted ~= ours.deleted or text(added) ~= ours.added then
    local numbers = {'ENTRIESADDED', text(added), 'MAXDELETEDID', deleted}
    if deleted == '' then numbers = {} end
    if redis.pcall('XSETID', key, last, unpack(numbers)).err then redis.call('XSETID', key, last) end
  end
  if expires ~= '' then redis.call('PEXPIREAT', key, expires) else redis.call('PERSIST', key) end
end

-- a script is not undone where it fails: so this one undoes itself
local saved = rebuild and redis.call('DUMP', key)
local left, at_ms = redis.call('PTTL', key), redis.pcall('PEXPIRETIME', key)
local done, why = pcall(write)
if not done then
  if saved then
    redis.call('RESTORE', key, math.max(left, 0), saved, 'REPLACE')
    if type(at_ms) == 'number' and at_ms > 0 then redis.call('PEXPIREAT', key, text(at_ms)) end
  elseif rebuild then
    redis.call('del', key)
  end
  if type(why) == 'table' then why = why.err end
  return redis.error_reply(tostring(why))
end
extra = extra or last ~= theirs.last or (theirs.deleted ~= '' and deleted ~= theirs.deleted)
return {extra and 1 or 0, lost and 1 or 0}
"""


def fence_stream(key: bytes, able: Abilities) -> Ask[Copy]:
    """Reads a whole stream with its groups. An error reply says that it is none any more."""
    when = expiry(key, able)

    def read(replies: Sequence[object]) -> Copy:
        expires_at_ms = when.read(replies[1:])
        words = [b"%d" % expires_at_ms if expires_at_ms else b"", *_words_of(_fields(replies[0]))]
        return StreamCopy(key, tuple(pieces(words)))

    state = pack(b"XINFO", b"STREAM", key, b"FULL", b"COUNT", 0)
    return Ask([state if able.has(b"XINFO") else pack(b"EVAL", _READ, 1, key), *when.commands], read)


def _fields(reply: object) -> Mapping[bytes, object]:
    if not isinstance(reply, list):
        raise NotNow("the reply is not that of XINFO STREAM")
    return dict(zip(reply[::2], reply[1::2], strict=True))


def _words_of(info: Mapping[bytes, object]) -> Iterator[bytes]:
    """In the order in which the script reads them. Counts come before what they count."""
    yield _word(info[b"last-generated-id"])
    yield _word(info.get(b"entries-added"))
    yield _word(info.get(b"max-deleted-entry-id"))
    groups, entries = info[b"groups"], info[b"entries"]
    assert isinstance(groups, list) and isinstance(entries, list)
    yield b"%d" % len(groups)
    for group in groups:
        yield from _words_of_group(_fields(group))
    yield b"%d" % len(entries)
    for name, words in entries:
        if len(words) > ENTRY_WORDS_MAX:
            raise Unfit(f"its entry {name.decode()} has {len(words) // 2} fields, more than a script can add")
        yield name
        yield b"%d" % len(words)
        yield from words


def _words_of_group(group: Mapping[bytes, object]) -> Iterator[bytes]:
    yield _word(group[b"name"])
    yield _word(group[b"last-delivered-id"])
    yield _word(group.get(b"entries-read"))
    consumers, pending = group[b"consumers"], group[b"pending"]
    assert isinstance(consumers, list) and isinstance(pending, list)
    yield b"%d" % len(consumers)
    for consumer in consumers:
        yield _word(_fields(consumer)[b"name"])
    yield b"%d" % len(pending)
    for entry in pending:  # id, consumer, when delivered in ms, how often
        yield from map(_word, entry[:4])


def _word(value: object) -> bytes:
    if isinstance(value, int):
        return b"%d" % value
    assert value is None or isinstance(value, bytes)
    return value or b""


def pieces(words: Sequence[bytes]) -> Iterator[bytes]:
    """Words, each with its length before it, joined to arguments of a bounded size."""
    piece = bytearray()
    for word in words:
        piece += len(word).to_bytes(4, "big") + word
        if len(piece) >= PIECE_BYTES:
            yield bytes(piece)
            piece.clear()
    if piece:
        yield bytes(piece)


@attrs.frozen
class StreamCopy(Copy):
    """A stream as a fence has read it, in the words that the script takes."""

    key: bytes
    pieces: tuple[bytes, ...]

    def restore(self, loser: Loser) -> Ask[Outcome]:
        """Merge it into what stands there. Only what was lost by that counts as replaced."""
        before = held_key(self.key, loser)
        merge = pack(b"EVAL", SCRIPT, 1, self.key, *self.pieces)
        after = [] if loser.big else held_key(self.key, loser).commands

        def outcome(replies: Sequence[object]) -> Outcome:
            held = before.read(replies[: len(before.commands)])
            told = replies[len(before.commands)]
            assert isinstance(told, list)
            extra, lost = told
            if loser.big:
                kept = digest(b"".join(self.pieces))
            else:
                kept = digest(before.read(replies[-len(after) :]).payload)
            return Outcome(held.replaced(loser) if lost else None, kept, turn=bool(extra))

        return Ask([*before.commands, merge, *after], outcome)

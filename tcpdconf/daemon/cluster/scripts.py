"""Holds the scripts that the engine runs, and names its keys.

Counts: the hash `PREFIXc:SPACE:NETWORK` of a network has one field for each daemon. The field's name is the
daemon's `life`, a random number of its cluster process. Its value is the daemon's number of connections. A
daemon writes its whole number, never a difference, so a repeated request counts nothing twice.

Leases: the hash `PREFIXleases` has a field for each life. Its value has the end of the lease on the engine's
clock, the `turn` (the number of the connection that renewed it) and a description of the daemon. Counts of a
life without a lease are ignored. A late request of an earlier turn has no effect.

Rates: `PREFIXr:SPACE:RATE:NETWORK` has the time, in microseconds on the engine's clock, at which the bucket
is full again, as in `policy.limits.RateLimiter`.
"""

import hashlib
import ipaddress
from typing import Final

from tcpdconf.policy.access import table as access_table

LEASE: Final = 15.0  # seconds that a lease lasts
KEPT: Final = 900  # seconds for which a count stays unless it is written again

_COMMON: Final = """
local time = redis.call('TIME')
local micros = tonumber(time[1]) * 1000000 + tonumber(time[2])
local now = math.floor(micros / 1000)
local leases, alive, own = redis.call('HGETALL', KEYS[1]), {}, false
for i = 1, #leases, 2 do
  local ends, turn = string.match(leases[i + 1], '^(%d+) (%d+) ')
  if ends and tonumber(ends) > now then
    alive[leases[i]] = true
    if leases[i] == ARGV[1] then own = turn == ARGV[2] end
  end
end
"""

# ARGV: life, turn, length of the lease in ms, description. Returns whether the lease was alive with this
# turn, the time in ms, and all leases.
LEASE_SCRIPT: Final = (
    _COMMON
    + """
for i = 1, #leases, 2 do
  local ends = string.match(leases[i + 1], '^(%d+) ')
  if not ends or tonumber(ends) + 60000 < now then redis.call('HDEL', KEYS[1], leases[i]) end
end
local ends = string.format('%.0f', now + tonumber(ARGV[3]))
redis.call('HSET', KEYS[1], ARGV[1], ends .. ' ' .. ARGV[2] .. ' ' .. ARGV[4])
redis.call('PEXPIRE', KEYS[1], 3600000)
return {own and 1 or 0, string.format('%.0f', now), redis.call('HGETALL', KEYS[1])}
"""
)

# KEYS: leases, counts, rates.
#
# ARGV: life; turn; seconds that a count is kept; the number of counts; for each count this daemon's own
# number; the number of takes; for each take the number of its limits, then five numbers for each limit:
# - the index of its key among the counts or rates;
# - 1 if it is enforced;
# - the maximum, or for a rate the microseconds of one token;
# - the microseconds of a rate's period, or 0 for a count;
# - 1 if it is written only if no limit would refuse.
#
# Returns nil if the lease has ended, else four numbers for each take: 1 if it is refused; the number, from 1
# on, of the limit that refuses or would refuse; its connections on all hosts; its connections on other hosts.
EXCHANGE_SCRIPT: Final = (
    _COMMON
    + """
if not own then return false end
local counts, at = tonumber(ARGV[4]), 4
local held, others, full, spent, found = {}, {}, {}, {}, {}
for i = 1, counts do held[i] = tonumber(ARGV[at + i]) end
at = at + counts + 1
local function elsewhere(i)
  if not others[i] then
    local sum, fields = 0, redis.call('HGETALL', KEYS[1 + i])
    for j = 1, #fields, 2 do
      if fields[j] ~= ARGV[1] then
        if alive[fields[j]] then sum = sum + (tonumber(fields[j + 1]) or 0)
        else redis.call('HDEL', KEYS[1 + i], fields[j]) end
      end
    end
    others[i] = sum
  end
  return others[i]
end
local function filled(i)
  if not full[i] then full[i] = tonumber(redis.call('GET', KEYS[1 + counts + i])) or 0 end
  return math.max(full[i], micros)
end
for take = 1, tonumber(ARGV[at]) do
  local limits = tonumber(ARGV[at + 1])
  at = at + 1
  local refuses, would = 0, 0
  for n = 1, limits do
    local i, enforced = tonumber(ARGV[at + 1]), ARGV[at + 2] == '1'
    local most, period = tonumber(ARGV[at + 3]), tonumber(ARGV[at + 4])
    local over
    if period == 0 then over = most > 0 and elsewhere(i) + held[i] >= most
    else over = filled(i) + most - micros > period + 1 end
    if over and enforced and refuses == 0 then refuses = n end
    if over and would == 0 then would = n end
    at = at + 5
  end
  local first = at - 5 * limits
  local which, all, other = refuses > 0 and refuses or would, 0, 0
  if which > 0 and ARGV[first + 5 * which - 1] == '0' then
    local i = tonumber(ARGV[first + 5 * which - 4])
    other = elsewhere(i)
    all = other + held[i]
  end
  if refuses == 0 then
    local counted = {}
    for n = 1, limits do
      local place = first + 5 * n - 4
      local i = tonumber(ARGV[place])
      if ARGV[place + 3] == '0' then
        if not counted[i] then held[i], counted[i] = held[i] + 1, true end
      elseif would == 0 or ARGV[place + 4] == '0' then
        full[i] = filled(i) + tonumber(ARGV[place + 2])
        spent[i] = tonumber(ARGV[place + 3])
      end
    end
  end
  found[#found + 1] = refuses > 0 and 1 or 0
  found[#found + 1] = which
  found[#found + 1] = all
  found[#found + 1] = other
end
for i = 1, counts do
  local key = KEYS[1 + i]
  if held[i] > 0 then
    redis.call('HSET', key, ARGV[1], held[i])
    redis.call('EXPIRE', key, ARGV[3])
  else redis.call('HDEL', key, ARGV[1]) end
end
for i, period in pairs(spent) do
  local milliseconds = string.format('%.0f', math.ceil(period / 1000) + 1)
  redis.call('SET', KEYS[1 + counts + i], string.format('%.0f', full[i]), 'PX', milliseconds)
end
return found
"""
)

LEASE_SHA: Final = hashlib.sha1(LEASE_SCRIPT.encode(), usedforsecurity=False).hexdigest()
EXCHANGE_SHA: Final = hashlib.sha1(EXCHANGE_SCRIPT.encode(), usedforsecurity=False).hexdigest()


def network(version: int, prefix: int, bits: int) -> str:
    """Return a network as text; `bits` is its prefix as a number, `prefix` the prefix length."""
    size = access_table.BITS[version]
    packed = (bits << size - prefix).to_bytes(size // 8)
    return f"{ipaddress.ip_address(packed)}/{prefix}"

-- What a worker asks first on a new connection: is this the data that knew it?
--
-- KEYS[1]  hash: `epoch` of the data, `run` of the server it was seen on, `opens`: see tick.lua
-- KEYS[2]  sorted set: leases
-- KEYS[3]  hash of this instance: open reservations by id, and `seq`
-- ARGV     instance, place, run of the server, 1 if the instance has talked to a Redis before
-- Returns  [epoch, seq (-1: none), microseconds until anything is reserved]
--
-- Data without an epoch has lost everything, a server that runs anew may have lost its last second.
-- Then nothing is reserved for a while, in which those who still know what was lost say it again:
-- reconnecting takes them half a second at most. Nobody else is known to live: no time is lost.

local GRACE = 1500000
local INSTANCE_LEASE = 30 * 1000000
local PLACE_LEASE = 600 * 1000000

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local instance, place, run, knows = ARGV[1], ARGV[2], ARGV[3], ARGV[4] == '1'

local epoch = redis.call('HGET', KEYS[1], 'epoch')
if not epoch then
  epoch = run .. '-' .. string.format('%.0f', now)
  local opens = knows and now + GRACE or now
  redis.call('HSET', KEYS[1], 'epoch', epoch, 'run', run, 'opens', string.format('%.0f', opens))
elseif redis.call('HGET', KEYS[1], 'run') ~= run then
  redis.call('HSET', KEYS[1], 'run', run)
  -- a lease that ended while the server was away may be of somebody who lives
  if knows or redis.call('ZCOUNT', KEYS[2], '-inf', '+inf') > 0 then
    redis.call('HSET', KEYS[1], 'opens', string.format('%.0f', now + GRACE))
  end
  -- nobody's lease ends because the server was not there to renew it
  for _, name in ipairs(redis.call('ZRANGE', KEYS[2], 0, -1)) do
    redis.call('ZADD', KEYS[2], 'XX', 'GT', now + INSTANCE_LEASE, name)
  end
end
redis.call('ZADD', KEYS[2], 'GT', now + INSTANCE_LEASE, 'i:' .. instance,
  now + PLACE_LEASE, 'p:' .. place)
local seq = tonumber(redis.call('HGET', KEYS[3], 'seq') or -1)
local opens = tonumber(redis.call('HGET', KEYS[1], 'opens') or 0)
return { epoch, seq, math.max(opens - now, 0) }

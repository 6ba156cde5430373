-- SPDX-License-Identifier: Apache-2.0
-- Every operation of the metadata store in Redis, as one atomic script: ARGV[1] names the operation.
-- Leases that have run out, by the server's clock, are ended before anything else: nobody reads what has expired.
--
-- KEYS  meta       hash  schema, revision, compacted, lease (the last lease's id)
--       index      zset  every key, score 0: ranges by prefix
--       values     hash  key -> value
--       revisions  hash  key -> revision of its last write
--       owners     hash  key -> the lease it is under
--       held       zset  "<lease id> <key>", score 0: the keys of a lease
--       leases     zset  lease id -> when it expires, ms
--       log        stream  "<revision>-0" -> k, v; no v: deleted

local meta, index, values, revisions = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local owners, held, leases, log = KEYS[5], KEYS[6], KEYS[7], KEYS[8]
local SCHEMA = '1'
local BLOCK = 500  -- arguments per unpack: Lua's stack is bounded

local function text(number)
  return string.format('%.0f', number)
end

local clock = redis.call('TIME')
local now_ms = tonumber(clock[1]) * 1000 + math.floor(tonumber(clock[2]) / 1000)

local schema = redis.call('HGET', meta, 'schema')
if not schema then
  -- Counting begins at the millisecond: revisions of a store that lost its data still rise, and what was seen of
  -- the lost one is older than all that this one keeps.
  local start = text(now_ms)
  redis.call('HSET', meta, 'schema', SCHEMA, 'start', start, 'revision', start, 'compacted', start, 'lease', start)
elseif schema ~= SCHEMA then
  return redis.error_reply('SLLMSCHEMA ' .. schema)
end

local function number_of(field)
  return tonumber(redis.call('HGET', meta, field))
end

-- Take the next revision and record the change; value nil: a deletion.
local function record(key, value, max_changes)
  local revision = redis.call('HINCRBY', meta, 'revision', 1)
  local id = text(revision) .. '-0'
  if value then
    redis.call('XADD', log, 'MAXLEN', '=', max_changes, id, 'k', key, 'v', value)
  else
    redis.call('XADD', log, 'MAXLEN', '=', max_changes, id, 'k', key)
  end
  local compacted = revision - tonumber(max_changes)
  if compacted > number_of('compacted') then
    redis.call('HSET', meta, 'compacted', text(compacted))
  end
  return revision
end

local function set_free(key)
  local lease = redis.call('HGET', owners, key)
  if lease then
    redis.call('HDEL', owners, key)
    redis.call('ZREM', held, lease .. ' ' .. key)
  end
end

local function delete(key, max_changes)
  set_free(key)
  redis.call('ZREM', index, key)
  redis.call('HDEL', values, key)
  redis.call('HDEL', revisions, key)
  record(key, nil, max_changes)
end

local function end_lease(lease, max_changes)
  local first = lease .. ' '
  for _, member in ipairs(redis.call('ZRANGEBYLEX', held, '[' .. first, '(' .. lease .. '!')) do
    delete(string.sub(member, #first + 1), max_changes)
  end
  redis.call('ZREM', leases, lease)
end

local operation, max_changes = ARGV[1], ARGV[2]
for _, lease in ipairs(redis.call('ZRANGEBYSCORE', leases, '-inf', text(now_ms))) do
  end_lease(lease, max_changes)
end

local operations = {}

-- -> the revision
function operations.tick()
  return text(number_of('revision'))
end

-- key -> value, revision, or nothing
function operations.get(key)
  local value = redis.call('HGET', values, key)
  return value and { value, redis.call('HGET', revisions, key) } or {}
end

-- key, value, lease ('': none), expected revision ('': any) -> the revision; '': not as expected; 'lease': it is gone
function operations.write(key, value, lease, expected)
  if expected ~= '' and (redis.call('HGET', revisions, key) or '0') ~= expected then
    return ''
  end
  if lease ~= '' and not redis.call('ZSCORE', leases, lease) then
    return 'lease'
  end
  set_free(key)
  if lease ~= '' then
    redis.call('HSET', owners, key, lease)
    redis.call('ZADD', held, 0, lease .. ' ' .. key)
  end
  local revision = text(record(key, value, max_changes))
  redis.call('ZADD', index, 0, key)
  redis.call('HSET', values, key, value)
  redis.call('HSET', revisions, key, revision)
  return revision
end

-- key, expected revision ('': any) -> 1 if it was deleted
function operations.delete(key, expected)
  local found = redis.call('HGET', revisions, key)
  if not found or (expected ~= '' and expected ~= found) then
    return 0
  end
  delete(key, max_changes)
  return 1
end

-- prefix -> the revision, then key, value, revision of each entry
function operations.range(prefix)
  local reply = { text(number_of('revision')) }
  local keys = redis.call('ZRANGEBYLEX', index, '[' .. prefix, '[' .. prefix .. '\255')
  for first = 1, #keys, BLOCK do
    local some = { unpack(keys, first, math.min(first + BLOCK - 1, #keys)) }
    local found = redis.call('HMGET', values, unpack(some))
    local stamps = redis.call('HMGET', revisions, unpack(some))
    for at, key in ipairs(some) do
      reply[#reply + 1] = key
      reply[#reply + 1] = found[at]
      reply[#reply + 1] = stamps[at]
    end
  end
  return reply
end

-- prefix, after, limit -> how far the log was searched, its two ends, then revision, key, value ('': deleted, else
-- 'v' and the value) of each change. The ends alone when `after` is not between them.
function operations.changes(prefix, after, limit)
  local current, compacted = number_of('revision'), number_of('compacted')
  local reply = { text(current), text(compacted), text(current) }
  local from = tonumber(after)
  if from == 0 and compacted == number_of('start') then
    from = compacted
  end
  if from < compacted or from > current then
    reply[1] = ''
    return reply
  end
  local found = redis.call('XRANGE', log, '(' .. text(from) .. '-0', '+', 'COUNT', limit)
  for _, change in ipairs(found) do
    local fields = change[2]
    if string.sub(fields[2], 1, #prefix) == prefix then
      reply[#reply + 1] = string.match(change[1], '^%d+')
      reply[#reply + 1] = fields[2]
      reply[#reply + 1] = fields[4] and ('v' .. fields[4]) or ''
    end
  end
  if #found == tonumber(limit) then
    reply[1] = string.match(found[#found][1], '^%d+')
  end
  return reply
end

-- time to live, ms -> the lease's id
function operations.lease(ttl_ms)
  local lease = text(redis.call('HINCRBY', meta, 'lease', 1))
  redis.call('ZADD', leases, text(now_ms + tonumber(ttl_ms)), lease)
  return lease
end

-- lease, time to live, ms -> 1 if it was still there
function operations.extend(lease, ttl_ms)
  if not redis.call('ZSCORE', leases, lease) then
    return 0
  end
  redis.call('ZADD', leases, text(now_ms + tonumber(ttl_ms)), lease)
  return 1
end

-- lease -> 1
function operations.revoke(lease)
  end_lease(lease, max_changes)
  return 1
end

return operations[operation](unpack(ARGV, 3))

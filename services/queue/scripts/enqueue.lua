-- ARGV: id, run, digest, cost, priority, timeout in ms, payload, note, request id, traceparent, then
--       nothing or a policy: weight, highest priority, most jobs and bytes ('' for no own bound)
-- Returns {state}, {'conflict'}, {'priority', highest} or {'full', bound, limit, retry after in ms}.
local id, run, digest, payload, note = ARGV[1], ARGV[2], ARGV[3], ARGV[7], ARGV[8]
local cost, priority, deadline = tonumber(ARGV[4]), tonumber(ARGV[5]), now + tonumber(ARGV[6])
local bytes = #payload + #note

-- When a tenth of these tokens will have been claimed, at the rate of the last periods.
local function retry_after(tokens)
  local period = math.floor(now / DRAIN_MS)
  local drained = redis.call('MGET', DRAINED .. period, DRAINED .. period - 1)
  local claimed = tonumber(drained[1] or 0) + tonumber(drained[2] or 0)
  if claimed == 0 then return settings.max_retry_ms end
  local rate = claimed / (DRAIN_MS + now % DRAIN_MS)
  return math.min(math.max(tokens / 10 / rate, settings.retry_ms), settings.max_retry_ms)
end

local known = load(id)
if known then
  if known.digest ~= digest then return {'conflict'} end
  local unfinished = known.state == 'queued' or known.state == 'claimed'
  if unfinished and deadline > known.deadline then
    redis.call('PERSIST', known.record) -- a first write that a full Redis takes
    redis.call('HSET', known.record, 'deadline', deadline)
    if known.state == 'queued' then redis.call('ZADD', DEADLINES, deadline, id) end
  end
  if unfinished or known.state == 'done' or known.state == 'dead' then return {known.state} end
end

local ours = redis.call('HMGET', run_key(run), 'jobs', 'bytes', 'waiting', 'operator',
  'weight', 'max_priority', 'max_jobs', 'max_bytes', 'given')
local policy = {ours[5] or '1', ours[6] or tostring(TOP), ours[7] or '', ours[8] or ''}
if ARGV[11] then
  local given = {ARGV[11], ARGV[12], ARGV[13], ARGV[14]}
  local words = table.concat(given, ' ')
  if words ~= ours[9] then -- kept, for when an operator takes a policy back
    redis.call('HSET', run_key(run), 'given', words)
    forget_later(run) -- until it has a job
  end
  if not ours[4] then
    if words ~= table.concat(policy, ' ') then set_policy(run, given) end
    policy = given
  end
end
if priority > tonumber(policy[2]) then return {'priority', tonumber(policy[2])} end

local all = redis.call('HMGET', TOTAL, 'jobs', 'bytes', 'waiting')
local run_jobs = math.min(settings.max_run_jobs, tonumber(policy[3]) or math.huge)
local run_bytes = math.min(settings.max_run_bytes, tonumber(policy[4]) or math.huge)
local bounds = {
  {'max_jobs', settings.max_jobs, tonumber(all[1] or 0) + 1, all[3]},
  {'max_bytes', settings.max_bytes, tonumber(all[2] or 0) + bytes, all[3]},
  {'max_run_jobs', run_jobs, tonumber(ours[1] or 0) + 1, ours[3]},
  {'max_run_bytes', run_bytes, tonumber(ours[2] or 0) + bytes, ours[3]},
}
for _, bound in ipairs(bounds) do
  if bound[3] > bound[2] then
    return {'full', bound[1], bound[2], math.ceil(retry_after(tonumber(bound[4] or 0)))}
  end
end

local job = {id = id, record = job_key(id), run = run, cost = cost, level = priority,
  accepted = now, deadline = deadline, bytes = bytes}
redis.call('HSET', job.record,
  'run', run, 'digest', digest, 'cost', cost, 'priority', priority, 'payload', payload,
  'bytes', bytes, 'accepted', now, 'deadline', deadline, 'failures', 0,
  'attempt', known and known.attempt or 0, 'wait', 0, 'note', note,
  'request_id', ARGV[9], 'traceparent', ARGV[10])
if known then
  redis.call('HDEL', job.record, 'body', 'reason')
  redis.call('PERSIST', job.record)
end
add(job)
return {'queued'}

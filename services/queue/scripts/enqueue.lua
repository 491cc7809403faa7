-- ARGV: settings, id, run, digest, cost, priority, timeout in ms, payload
-- Returns {state}, {'conflict'}, or {'full', bound, limit}.
local id, run, digest, payload = ARGV[2], ARGV[3], ARGV[4], ARGV[8]
local deadline = now() + tonumber(ARGV[7])
local known = load(id)
if known then
  if known.digest ~= digest then return {'conflict'} end
  local unfinished = known.state == 'queued' or known.state == 'claimed'
  if unfinished and deadline > known.deadline then
    redis.call('HSET', known.record, 'deadline', deadline)
    if known.state == 'queued' then redis.call('ZADD', key('deadlines'), deadline, id) end
  end
  if unfinished or known.state == 'done' or known.state == 'dead' then return {known.state} end
end

local total = redis.call('HMGET', key('total'), 'jobs', 'bytes')
local ours = redis.call('HMGET', key('run', run), 'queued', 'claimed', 'bytes')
local bounds = {
  {'max_jobs', tonumber(total[1] or 0) + 1},
  {'max_bytes', tonumber(total[2] or 0) + #payload},
  {'max_run_jobs', tonumber(ours[1] or 0) + tonumber(ours[2] or 0) + 1},
  {'max_run_bytes', tonumber(ours[3] or 0) + #payload},
}
for _, bound in ipairs(bounds) do
  local limit = settings[bound[1]]
  if bound[2] > limit then return {'full', bound[1], limit} end
end

local job = {id = id, record = key('job', id), run = run, deadline = deadline, bytes = #payload}
-- The first write is one that a Redis out of memory refuses; after another it would let all pass.
redis.call('HSET', job.record,
  'run', run, 'digest', digest, 'cost', ARGV[5], 'priority', ARGV[6], 'payload', payload,
  'bytes', #payload, 'accepted', now(), 'deadline', deadline, 'failures', 0,
  'attempt', known and known.attempt or 0, 'wait', 0)
redis.call('HDEL', job.record, 'body', 'reason')
add(job)
return {'queued'}

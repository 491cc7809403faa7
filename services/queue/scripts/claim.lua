-- ARGV: settings, worker
-- Returns {id, run, cost, attempt, failures, wait in ms, time left in ms, payload}, or nil.
local worker = ARGV[2]

local function read(run, consumer, from)
  local stream = key('stream', run)
  local answer = redis.call(
    'XREADGROUP', 'GROUP', GROUP, consumer, 'COUNT', 1, 'STREAMS', stream, from)
  local entry = answer and answer[1][2][1]
  return entry and load(entry[2][2])
end

while true do
  local first = redis.call('ZRANGE', key('ready'), 0, 0, 'WITHSCORES')
  if #first == 0 then return nil end
  local run, counter = first[1], tonumber(first[2])
  local job = read(run, RETURNED, '0') or read(run, worker, '>')
  local time = now()
  if job.deadline <= time then
    finish(job, 'expired', '')
  else
    leave_queue(job)
    redis.call('XCLAIM', key('stream', run), GROUP, worker, 0, job.entry, 'JUSTID')
    redis.call('ZADD', key('leases'), time + settings.lease_ms, job.id)
    redis.call('HSET', key('total'), 'clock', counter)
    redis.call('HSET', key('run', run), 'counter', counter + job.cost)
    redis.call('ZADD', key('ready'), 'XX', counter + job.cost, run)
    count(run, 'claimed', 1)
    count(run, 'tokens', job.cost)
    local attempt, wait = job.attempt + 1, time - job.accepted
    redis.call('HSET', job.record,
      'state', 'claimed', 'worker', worker, 'attempt', attempt, 'wait', wait)
    return {job.id, run, job.cost, attempt, job.failures, wait, job.deadline - time,
      redis.call('HGET', job.record, 'payload')}
  end
end

-- ARGV: worker
-- Returns {id, run, cost, attempt, failures, wait in ms, time left in ms, payload, request id,
-- traceparent}, or nil.
local RISES = 8 -- more than a claim takes away, so that aging is never behind for long
local worker = ARGV[1]

-- The job that is first in the run's lane, and pending to this worker from now on if it is new.
local function first_in_lane(run, level, any_returned)
  local stream, answer = stream_key(run, level), nil
  if any_returned then
    answer = redis.call('XREADGROUP', 'GROUP', GROUP, RETURNED, 'COUNT', 1, 'STREAMS', stream, '0')
  else
    answer = redis.call('XREADGROUP', 'GROUP', GROUP, worker, 'COUNT', 1, 'STREAMS', stream, '>')
  end
  return load(answer[1][2][1][2][2])
end

local function take(job, weight)
  local charge = job.cost / weight
  redis.call('ZINCRBY', READY .. job.level, charge, job.run)
  leave_queue(job)
  if job.returned == 1 then
    redis.call('XCLAIM', stream_key(job.run, job.level), GROUP, worker, 0, job.entry, 'JUSTID')
  end
  redis.call('ZADD', LEASES, now + settings.lease_ms, job.id)
  count(job.run, 'claimed', 1)
  count(job.run, 'tokens', job.cost)
  local drained = DRAINED .. math.floor(now / DRAIN_MS)
  if redis.call('INCRBY', drained, job.cost) == job.cost then
    redis.call('PEXPIRE', drained, 3 * DRAIN_MS)
  end
  local attempt, wait = job.attempt + 1, now - job.accepted
  redis.call('HSET', job.record, 'state', 'claimed', 'worker', worker, 'attempt', attempt,
    'wait', wait, 'charge', charge, 'returned', 0)
  return {job.id, job.run, job.cost, attempt, job.failures, wait, job.deadline - now,
    unpack(redis.call('HMGET', job.record, 'payload', 'request_id', 'traceparent'))}
end

rise(RISES)
for level = TOP, 0, -1 do
  while true do
    local run = redis.call('ZRANGE', READY .. level, 0, 0)[1]
    if not run then break end
    local facts = redis.call('HMGET', run_key(run), 'weight', 'returned:' .. level)
    local job = first_in_lane(run, level, tonumber(facts[2] or 0) > 0)
    if job.deadline > now then return take(job, tonumber(facts[1] or 1)) end
    finish(job, 'expired', '')
  end
end
return nil

-- ARGV: worker
-- Returns {id, run, cost, attempt, failures, wait in ms, time left in ms, payload, request id,
-- traceparent}, or nil.
local RISES = 8 -- more than a claim takes away, so that aging is never behind for long
local worker = ARGV[1]

-- Jobs that failed before may be what breaks teachers. A worker sends each of them alone, so only
-- one worker at a time may have such: those of two would meet at a teacher and fail together.
local holders = redis.call('ZCARD', SUSPECTS)
local others_have_suspects = holders > 1
  or holders == 1 and not redis.call('ZSCORE', SUSPECTS, worker)

local function barred(job)
  return others_have_suspects and job.failures > 0 and job.deadline > now
end

-- The next entry of the lane that is pending to a consumer, behind the entry `from`, or new ('>').
local function read_next(run, level, consumer, from)
  local answer = redis.call('XREADGROUP', 'GROUP', GROUP, consumer, 'COUNT', 1, 'STREAMS',
    stream_key(run, level), from)
  return load(answer[1][2][1][2][2])
end

-- The job that is first in the run's lane, and pending to this worker from now on if it is new; nil
-- when this worker may have none of them.
local function first_in_lane(run, level, returned, queued)
  local from = '0'
  for _ = 1, returned do
    local job = read_next(run, level, RETURNED, from)
    if not barred(job) then return job end
    from = job.entry
  end
  for _ = returned + 1, queued do
    local job = read_next(run, level, worker, '>')
    if not barred(job) then return job end
    redis.call('XCLAIM', stream_key(run, level), GROUP, RETURNED, 0, job.entry, 'JUSTID')
    redis.call('HSET', job.record, 'returned', 1)
    count(run, 'returned:' .. level, 1)
  end
  return nil
end

local function take(job, weight)
  local charge = job.cost / weight
  redis.call('ZINCRBY', READY .. job.level, charge, job.run)
  leave_queue(job)
  if job.returned == 1 then
    redis.call('XCLAIM', stream_key(job.run, job.level), GROUP, worker, 0, job.entry, 'JUSTID')
  end
  redis.call('ZADD', LEASES, now + settings.lease_ms, job.id)
  if job.failures > 0 then redis.call('ZINCRBY', SUSPECTS, 1, worker) end
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
  local passed = 0 -- runs whose jobs must wait for another worker's
  while true do
    local run = redis.call('ZRANGE', READY .. level, passed, passed)[1]
    if not run then break end
    local facts = redis.call('HMGET', run_key(run), 'weight', 'returned:' .. level,
      'queued:' .. level)
    local job = first_in_lane(run, level, tonumber(facts[2] or 0), tonumber(facts[3]))
    if not job then
      passed = passed + 1
    elseif job.deadline > now then
      return take(job, tonumber(facts[1] or 1))
    else
      finish(job, 'expired', '')
    end
  end
end
return nil

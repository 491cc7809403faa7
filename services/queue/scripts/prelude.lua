-- Every script begins with this. KEYS[1] is the prefix of all keys, ARGV[1] the settings as JSON.
--
--   PREFIX:job:ID          hash: run, cost, digest, state, attempt, failures, …, payload or body
--   PREFIX:stream:RUN      stream of the run's unfinished jobs in the order of acceptance; what is
--                          claimed is pending to its worker, what came back to the consumer RETURNED
--   PREFIX:run:RUN         hash: the run's counts by state, bytes, virtual counter, tokens
--   PREFIX:runs            set of runs
--   PREFIX:ready           sorted set: runs with queued jobs by virtual counter
--   PREFIX:leases          sorted set: claimed jobs by the end of their lease, in ms
--   PREFIX:deadlines       sorted set: queued jobs by deadline, in ms
--   PREFIX:total           hash: unfinished jobs and their bytes, the virtual clock
--   PREFIX:dead            stream of the jobs that were put aside
--
-- A claim counts as the run's tokens: its counter goes up by the cost, and the run with the lowest
-- counter is next (start-time fair queueing). All times are Redis's own.

local prefix = KEYS[1]
local settings = cjson.decode(ARGV[1])
local GROUP, RETURNED = 'dispatchers', 'returned'
local NUMBERS = {'cost', 'bytes', 'attempt', 'failures', 'accepted', 'deadline', 'wait'}
local TEXTS = {'run', 'state', 'digest', 'worker', 'entry', 'dead_entry'}

local function key(...)
  return prefix .. ':' .. table.concat({...}, ':')
end

local function now()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- The job's fields without its payload and body; nil when there is no such job.
local function load(id)
  local record = key('job', id)
  local texts = redis.call('HMGET', record, unpack(TEXTS))
  if not texts[1] then return nil end
  local numbers = redis.call('HMGET', record, unpack(NUMBERS))
  local job = {id = id, record = record}
  for i, name in ipairs(TEXTS) do job[name] = texts[i] end
  for i, name in ipairs(NUMBERS) do job[name] = tonumber(numbers[i] or 0) end
  return job
end

local function count(run, name, change)
  return redis.call('HINCRBY', key('run', run), name, change)
end

-- The job can be claimed. What its run left unused while it was idle is not saved up.
local function make_ready(job)
  if count(job.run, 'queued', 1) == 1 then
    local counter = tonumber(redis.call('HGET', key('run', job.run), 'counter') or 0)
    local clock = tonumber(redis.call('HGET', key('total'), 'clock') or 0)
    counter = math.max(counter, clock)
    redis.call('HSET', key('run', job.run), 'counter', counter)
    redis.call('ZADD', key('ready'), counter, job.run)
  end
  redis.call('ZADD', key('deadlines'), job.deadline, job.id)
  redis.call('HSET', job.record, 'state', 'queued')
  redis.call('PUBLISH', key('announcements'), ':work')
end

-- The job is queued no longer.
local function leave_queue(job)
  redis.call('ZREM', key('deadlines'), job.id)
  if count(job.run, 'queued', -1) == 0 then
    redis.call('ZREM', key('ready'), job.run)
  end
end

-- Nobody holds the job any longer.
local function end_lease(job)
  redis.call('ZREM', key('leases'), job.id)
  count(job.run, 'claimed', -1)
end

-- The job goes to the end of its run's stream, as a new one or once more.
local function add(job)
  local stream = key('stream', job.run)
  if redis.call('EXISTS', stream) == 0 then
    redis.call('XGROUP', 'CREATE', stream, GROUP, '0', 'MKSTREAM')
  end
  redis.call('HSET', job.record, 'entry', redis.call('XADD', stream, '*', 'id', job.id))
  redis.call('PERSIST', job.record)
  redis.call('PERSIST', key('run', job.run))
  redis.call('SADD', key('runs'), job.run)
  redis.call('HINCRBY', key('total'), 'jobs', 1)
  redis.call('HINCRBY', key('total'), 'bytes', job.bytes)
  count(job.run, 'bytes', job.bytes)
  make_ready(job)
end

-- The job has its outcome: `state`, why, and what its worker wrote, if anything.
local function finish(job, state, reason, body)
  local stream = key('stream', job.run)
  if job.state == 'queued' then leave_queue(job) else end_lease(job) end
  redis.call('XACK', stream, GROUP, job.entry)
  redis.call('XDEL', stream, job.entry)
  redis.call('HINCRBY', key('total'), 'jobs', -1)
  local freed = 0 - job.bytes -- of nothing, -job.bytes would be -0, which Redis takes for no number
  redis.call('HINCRBY', key('total'), 'bytes', freed)
  count(job.run, 'bytes', freed)
  count(job.run, state, 1)
  redis.call('HSET', job.record, 'state', state)
  if reason ~= '' then redis.call('HSET', job.record, 'reason', reason) end
  if state == 'dead' then
    local entry = redis.call('XADD', key('dead'), '*', 'id', job.id, 'run', job.run)
    redis.call('HSET', job.record, 'dead_entry', entry)
    redis.call('PEXPIRE', job.record, settings.dead_ms)
  else
    redis.call('HSET', job.record, 'body', body or '')
    redis.call('HDEL', job.record, 'payload')
    redis.call('PEXPIRE', job.record, settings.result_ms)
  end
  if redis.call('XLEN', stream) == 0 then
    redis.call('DEL', stream)
    redis.call('PEXPIRE', key('run', job.run), settings.dead_ms)
  end
  redis.call('PUBLISH', key('announcements'), job.id)
end

-- Dead jobs expire by themselves; this forgets the entries of those that have.
local function trim_dead()
  redis.call('XTRIM', key('dead'), 'MINID', now() - settings.dead_ms)
end

-- The claimed job goes back in front of its run's others.
local function put_back(job)
  end_lease(job)
  redis.call('XCLAIM', key('stream', job.run), GROUP, RETURNED, 0, job.entry, 'JUSTID')
  make_ready(job)
end

-- A delivery ended badly: put back, or aside when that was once too often. Whether it was put aside.
local function count_failure(job, reason)
  redis.call('HSET', job.record, 'failures', job.failures + 1, 'reason', reason)
  if job.failures + 1 >= settings.max_attempts then
    finish(job, 'dead', reason)
    return true
  end
  put_back(job)
  return false
end

-- The job, if this worker holds it in this attempt; nil when the lease was lost.
local function held(id, worker, attempt)
  local job = load(id)
  if job and job.state == 'claimed' and job.worker == worker and job.attempt == tonumber(attempt) then
    return job
  end
  return nil
end

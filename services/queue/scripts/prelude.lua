-- Every script begins with this, after `settings`, a table of the queue's bounds and times, and
-- `TOP`, the highest priority. KEYS[1] is the prefix of all keys; docs/queue.md lists them.
--
-- A job's level is its priority plus the steps that it has aged. A run's jobs of one level are its
-- lane: a stream in the order of arrival, in which what is claimed is pending to its worker, and
-- what came back to the consumer RETURNED. `ready:LEVEL` holds the runs that have queued jobs in
-- that lane, by virtual token counter. All times are Redis's own, in ms.
--
-- A Redis out of memory refuses a script's first write if it can add data, and lets the later ones
-- pass. So scripts that must work then (claim, finish, …) begin with one that only removes, and
-- the one that must not (enqueue) with one that adds.

local prefix = KEYS[1]
local GROUP, RETURNED = 'dispatchers', 'returned'
local RUNS, READY, CLOCK = prefix .. ':runs', prefix .. ':ready:', 'clock:'
local LEASES, DEADLINES, AGING = prefix .. ':leases', prefix .. ':deadlines', prefix .. ':aging'
local TOTAL, DEAD, DRAINED = prefix .. ':total', prefix .. ':dead', prefix .. ':drained:'
local ANNOUNCEMENTS = prefix .. ':announcements'
local SUSPECTS = prefix .. ':suspects' -- how many jobs that failed before each worker has
local DRAIN_MS = 10000 -- claimed tokens are counted in periods of this length
local TEXTS = 6 -- so many of FIELDS are no numbers
local FIELDS = {'run', 'state', 'digest', 'worker', 'entry', 'dead_entry', 'cost', 'charge',
  'bytes', 'level', 'returned', 'attempt', 'failures', 'accepted', 'deadline', 'wait'}

local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)

local function job_key(id) return prefix .. ':job:' .. id end
local function run_key(run) return prefix .. ':run:' .. run end
local function waiting_key(run) return prefix .. ':waiting:' .. run end
local function stream_key(run, level) return prefix .. ':stream:' .. level .. ':' .. run end

-- The job's fields without its payload and body; nil when there is no such job.
local function load(id)
  local record = job_key(id)
  local values = redis.call('HMGET', record, unpack(FIELDS))
  if not values[1] then return nil end
  local job = {id = id, record = record}
  for i, name in ipairs(FIELDS) do
    job[name] = i <= TEXTS and values[i] or tonumber(values[i] or 0)
  end
  return job
end

local function count(run, name, change)
  return redis.call('HINCRBY', run_key(run), name, change)
end

local function total(name, change)
  redis.call('HINCRBY', TOTAL, name, change)
end

-- The run has queued jobs in this lane again. What it left unused while it was idle is not saved
-- up: its counter is lifted to the lowest of the runs with work, or, when there are none, to that
-- of the run that had work last.
local function enter(run, level)
  local counter = redis.call('HGET', run_key(run), 'counter:' .. level)
  local lowest = redis.call('ZRANGE', READY .. level, 0, 0, 'WITHSCORES')[2]
    or redis.call('HGET', TOTAL, CLOCK .. level)
  counter = math.max(tonumber(counter or 0), tonumber(lowest or 0))
  redis.call('ZADD', READY .. level, counter, run)
end

-- The run has nothing more to claim in this lane.
local function leave(run, level)
  local counter = redis.call('ZSCORE', READY .. level, run)
  if not counter then return end -- it is paused
  redis.call('ZREM', READY .. level, run)
  redis.call('HSET', run_key(run), 'counter:' .. level, counter)
  redis.call('HSET', TOTAL, CLOCK .. level, counter)
end

local function nothing_ready()
  local sets = {}
  for level = 0, TOP do sets[level + 1] = READY .. level end
  return redis.call('EXISTS', unpack(sets)) == 0
end

-- The run's lane can be claimed from, unless the run is paused. Workers that wait have found
-- nothing at all, so that only the first lane is news to them.
local function offer(run, level)
  if redis.call('HGET', run_key(run), 'paused') then return end
  if nothing_ready() then redis.call('PUBLISH', ANNOUNCEMENTS, ':work') end
  enter(run, level)
end

-- The job can be claimed.
local function make_ready(job)
  redis.call('HSET', job.record, 'state', 'queued', 'entry', job.entry, 'level', job.level,
    'returned', job.returned)
  redis.call('ZADD', DEADLINES, job.deadline, job.id)
  redis.call('ZADD', waiting_key(job.run), job.accepted, job.id)
  if job.level < TOP then redis.call('ZADD', AGING, now + settings.aging_ms, job.id) end
  if count(job.run, 'queued:' .. job.level, 1) == 1 then offer(job.run, job.level) end
end

-- The job's lane holds it no longer as queued.
local function leave_lane(job)
  if job.level < TOP then redis.call('ZREM', AGING, job.id) end
  if job.returned == 1 then count(job.run, 'returned:' .. job.level, -1) end
  if count(job.run, 'queued:' .. job.level, -1) == 0 then leave(job.run, job.level) end
end

local function leave_queue(job)
  redis.call('ZREM', DEADLINES, job.id)
  redis.call('ZREM', waiting_key(job.run), job.id)
  leave_lane(job)
end

-- Nobody holds the job any longer.
local function end_lease(job)
  redis.call('ZREM', LEASES, job.id)
  count(job.run, 'claimed', -1)
  if job.failures > 0 and tonumber(redis.call('ZINCRBY', SUSPECTS, -1, job.worker)) < 1 then
    redis.call('ZREM', SUSPECTS, job.worker)
  end
end

-- The job goes to the end of its lane's stream.
local function append(job)
  local stream = stream_key(job.run, job.level)
  job.entry, job.returned = redis.call('XADD', stream, '*', 'id', job.id), 0
  if redis.call('XLEN', stream) == 1 then
    redis.call('XGROUP', 'CREATE', stream, GROUP, '0')
  end
end

local function remove_entry(job)
  local stream = stream_key(job.run, job.level)
  redis.call('XACK', stream, GROUP, job.entry)
  redis.call('XDEL', stream, job.entry)
  if redis.call('XLEN', stream) == 0 then redis.call('DEL', stream) end
end

-- The job is unfinished, as a new one or once more.
local function add(job)
  append(job)
  if count(job.run, 'jobs', 1) == 1 then
    redis.call('SADD', RUNS, job.run)
    redis.call('PERSIST', run_key(job.run))
  end
  count(job.run, 'bytes', job.bytes)
  count(job.run, 'waiting', job.cost)
  total('jobs', 1)
  total('bytes', job.bytes)
  total('waiting', job.cost)
  make_ready(job)
end

-- A run without jobs is forgotten after a while, unless an operator has set something for it.
local function forget_later(run)
  local kept = redis.call('HMGET', run_key(run), 'paused', 'operator', 'jobs')
  if not kept[1] and not kept[2] and tonumber(kept[3] or 0) == 0 then
    redis.call('PEXPIRE', run_key(run), settings.dead_ms)
  end
end

-- What the run may take: weight, highest priority, most jobs and bytes ('' for no own bound).
local function set_policy(run, policy)
  redis.call('HSET', run_key(run), 'weight', policy[1], 'max_priority', policy[2],
    'max_jobs', policy[3], 'max_bytes', policy[4])
end

-- The job has its outcome: `state`, why, and what its worker wrote, if anything.
local function finish(job, state, reason, body)
  if job.state == 'queued' then leave_queue(job) else end_lease(job) end
  remove_entry(job)
  local left = count(job.run, 'jobs', -1)
  count(job.run, 'bytes', 0 - job.bytes) -- of nothing, -x would be -0, for Redis no number
  count(job.run, 'waiting', 0 - job.cost)
  count(job.run, state, 1)
  total('jobs', -1)
  total('bytes', 0 - job.bytes)
  total('waiting', 0 - job.cost)
  if state == 'dead' then
    local entry = redis.call('XADD', DEAD, '*', 'id', job.id, 'run', job.run)
    redis.call('HSET', job.record, 'state', state, 'reason', reason, 'dead_entry', entry)
    redis.call('PEXPIRE', job.record, settings.dead_ms)
  else
    redis.call('HDEL', job.record, 'payload')
    if reason ~= '' then redis.call('HSET', job.record, 'reason', reason) end
    redis.call('HSET', job.record, 'state', state, 'body', body or '')
    redis.call('PEXPIRE', job.record, settings.result_ms)
  end
  if left == 0 then forget_later(job.run) end
  redis.call('PUBLISH', ANNOUNCEMENTS, job.id)
end

-- Queued jobs that have been in their level for so long rise into the next, at most so many. A
-- paused run's jobs stay where they are.
local function rise(most)
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', AGING, '-inf', now, 'LIMIT', 0, most)) do
    local job = load(id)
    redis.call('ZREM', AGING, id)
    if redis.call('HGET', run_key(job.run), 'paused') then
      redis.call('ZADD', AGING, now + settings.aging_ms, id)
    else
      leave_lane(job)
      remove_entry(job)
      job.level = job.level + 1
      append(job)
      make_ready(job)
    end
  end
end

-- Dead jobs expire by themselves; this forgets the entries of those that have.
local function trim_dead()
  redis.call('XTRIM', DEAD, 'MINID', now - settings.dead_ms)
end

-- The claimed job goes back in front of its lane's others, and its run gets its charge back: it
-- pays when the job is claimed again.
local function put_back(job)
  end_lease(job)
  count(job.run, 'tokens', 0 - job.cost)
  if redis.call('ZSCORE', READY .. job.level, job.run) then
    redis.call('ZINCRBY', READY .. job.level, 0 - job.charge, job.run)
  else
    redis.call('HINCRBYFLOAT', run_key(job.run), 'counter:' .. job.level, 0 - job.charge)
  end
  local stream = stream_key(job.run, job.level)
  redis.call('XCLAIM', stream, GROUP, RETURNED, 0, job.entry, 'JUSTID')
  job.returned = 1
  count(job.run, 'returned:' .. job.level, 1)
  make_ready(job)
end

-- A delivery ended badly: put back, or aside when that was once too often. Whether it was put aside.
local function count_failure(job, reason)
  redis.call('ZREM', LEASES, job.id) -- a first write that a full Redis takes
  redis.call('HSET', job.record, 'failures', job.failures + 1, 'reason', reason)
  if job.failures + 1 >= settings.max_attempts then
    count(job.run, 'wait_ms', job.wait)
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

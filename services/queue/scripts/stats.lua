-- ARGV: the names of a run's counts
-- Returns each known run and its counts; forgets the runs whose counts have expired.
local stats = {}
for _, run in ipairs(redis.call('SMEMBERS', RUNS)) do
  if redis.call('EXISTS', run_key(run)) == 1 then
    table.insert(stats, {run, redis.call('HMGET', run_key(run), unpack(ARGV))})
  else
    redis.call('SREM', RUNS, run)
  end
end
return stats

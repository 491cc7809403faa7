-- ARGV: a run, or '' for every known one; the names of a run's fields
-- Returns each run, the age of its oldest queued job in ms (0 when none is queued), and its fields;
-- forgets the runs whose counts have expired.
local stats = {}
local runs = ARGV[1] ~= '' and {ARGV[1]} or redis.call('SMEMBERS', RUNS)
for _, run in ipairs(runs) do
  if redis.call('EXISTS', run_key(run)) == 1 then
    local oldest = redis.call('ZRANGE', waiting_key(run), 0, 0, 'WITHSCORES')[2]
    local age = oldest and now - tonumber(oldest) or 0
    table.insert(stats, {run, age, redis.call('HMGET', run_key(run), unpack(ARGV, 2))})
  else
    redis.call('SREM', RUNS, run)
  end
end
return stats

-- ARGV: run, then nothing or a policy: weight, highest priority, most jobs and bytes ('' for no
--       own bound)
local run = ARGV[1]
if ARGV[2] then
  redis.call('SADD', RUNS, run)
  redis.call('HSET', run_key(run), 'operator', 1)
  set_policy(run, {ARGV[2], ARGV[3], ARGV[4], ARGV[5]})
  redis.call('PERSIST', run_key(run))
else
  redis.call('HDEL', run_key(run), 'operator', 'weight', 'max_priority', 'max_jobs', 'max_bytes')
  local given = redis.call('HGET', run_key(run), 'given')
  if given then set_policy(run, {string.match(given, '^(%S*) (%S*) (%S*) (%S*)$')}) end
  forget_later(run)
end

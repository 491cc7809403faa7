-- ARGV: run, then nothing or a policy: weight, highest priority, most jobs and bytes ('' for no
--       own bound)
local run = ARGV[1]
if ARGV[2] then
  redis.call('SADD', RUNS, run)
  redis.call('HSET', run_key(run), 'operator', 1, 'weight', ARGV[2], 'max_priority', ARGV[3],
    'max_jobs', ARGV[4], 'max_bytes', ARGV[5])
  redis.call('PERSIST', run_key(run))
else
  redis.call('HDEL', run_key(run), 'operator', 'weight', 'max_priority', 'max_jobs', 'max_bytes')
  forget_later(run)
end

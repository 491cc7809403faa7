-- ARGV: run
local run = ARGV[1]
redis.call('PERSIST', run_key(run)) -- a first write that a full Redis takes
for level = 0, TOP do leave(run, level) end
redis.call('SADD', RUNS, run)
redis.call('HSET', run_key(run), 'paused', 1)
redis.call('PERSIST', run_key(run))

-- ARGV: id, worker, attempt, state (done or failed), reason, body, then what it cost: tokens naive
--       and computed, engine time in µs, pairs and tokens cached
-- Returns 1, or 0 when the lease was lost.
local COSTS = {'tokens_naive', 'tokens_computed', 'engine_us', 'pairs_cached', 'tokens_cached'}
local job = held(ARGV[1], ARGV[2], ARGV[3])
if not job then return 0 end
finish(job, ARGV[4], ARGV[5], ARGV[6])
count(job.run, 'wait_ms', job.wait)
for i, name in ipairs(COSTS) do
  if ARGV[6 + i] ~= '0' then count(job.run, name, ARGV[6 + i]) end
end
return 1

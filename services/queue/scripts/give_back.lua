-- ARGV: id, worker, attempt, whether a failure is counted (1 or 0), reason
-- Returns 1, or 0 when the lease was lost.
local job = held(ARGV[1], ARGV[2], ARGV[3])
if not job then return 0 end
if ARGV[4] == '1' then count_failure(job, ARGV[5]) else put_back(job) end
return 1

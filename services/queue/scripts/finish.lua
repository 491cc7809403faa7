-- ARGV: settings, id, worker, attempt, state (done or failed), reason, body
-- Returns 1, or 0 when the lease was lost.
local job = held(ARGV[2], ARGV[3], ARGV[4])
if not job then return 0 end
finish(job, ARGV[5], ARGV[6], ARGV[7])
return 1

-- ARGV: settings, id, worker, attempt, whether a failure is counted (1 or 0), reason
-- Returns 1, or 0 when the lease was lost.
local job = held(ARGV[2], ARGV[3], ARGV[4])
if not job then return 0 end
if ARGV[5] == '1' then
  count_failure(job, ARGV[6])
else
  local counter = count(job.run, 'counter', 0 - job.cost) -- never -0
  redis.call('ZADD', key('ready'), 'XX', counter, job.run)
  count(job.run, 'tokens', 0 - job.cost)
  put_back(job)
end
return 1

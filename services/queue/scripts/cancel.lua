-- ARGV: id
-- Returns the state after it, or nil when there is no such job.
local job = load(ARGV[1])
if not job then return nil end
if job.state == 'queued' or job.state == 'claimed' then
  finish(job, 'cancelled', '')
  return 'cancelled'
end
return job.state

-- ARGV: settings, id
-- Returns 1, 0 when the job is not dead, or nil when there is no such job.
local job = load(ARGV[2])
if not job then return nil end
if job.state ~= 'dead' then return 0 end
redis.call('XDEL', key('dead'), job.dead_entry)
count(job.run, 'dead', -1)
job.deadline = now() + settings.job_ms
redis.call('HSET', job.record, 'failures', 0, 'deadline', job.deadline)
add(job)
return 1

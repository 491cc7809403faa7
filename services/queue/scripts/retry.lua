-- ARGV: id
-- Returns 1, 0 when the job is not dead, or nil when there is no such job.
local job = load(ARGV[1])
if not job then return nil end
if job.state ~= 'dead' then return 0 end
redis.call('XDEL', DEAD, job.dead_entry)
count(job.run, 'dead', -1)
job.deadline = now + settings.job_ms
job.level = tonumber(redis.call('HGET', job.record, 'priority'))
redis.call('HSET', job.record, 'failures', 0, 'deadline', job.deadline)
redis.call('PERSIST', job.record)
add(job)
return 1

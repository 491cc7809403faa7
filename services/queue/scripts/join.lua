-- ARGV: the process, its settings as JSON, how long it counts as there in ms
-- Returns the settings of the processes that are there.
local SETTINGS, PROCESSES = prefix .. ':settings', prefix .. ':processes'
redis.call('ZREMRANGEBYSCORE', PROCESSES, '-inf', now)
local theirs = redis.call('ZCARD', PROCESSES) > 0 and redis.call('GET', SETTINGS)
if theirs and theirs ~= ARGV[2] then return theirs end
redis.call('SET', SETTINGS, ARGV[2])
redis.call('ZADD', PROCESSES, now + tonumber(ARGV[3]), ARGV[1])
return ARGV[2]

-- ARGV: run
-- Returns 1, 0 when it was not paused, or nil when there is no such run.
local run = ARGV[1]
if redis.call('EXISTS', run_key(run)) == 0 then return nil end
if redis.call('HDEL', run_key(run), 'paused') == 0 then return 0 end
for level = 0, TOP do
  if tonumber(redis.call('HGET', run_key(run), 'queued:' .. level) or 0) > 0 then
    offer(run, level)
  end
end
forget_later(run)
return 1

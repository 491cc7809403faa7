-- ARGV: run
-- Returns how many jobs were cancelled or dropped.
local run, purged = ARGV[1], 0
for level = 0, TOP do
  for _, entry in ipairs(redis.call('XRANGE', stream_key(run, level), '-', '+')) do
    finish(load(entry[2][2]), 'cancelled', 'PURGED')
    purged = purged + 1
  end
end
trim_dead()
for _, entry in ipairs(redis.call('XRANGE', DEAD, '-', '+')) do
  if entry[2][4] == run then
    redis.call('XDEL', DEAD, entry[1])
    -- Without its job, the run's counts may be gone as well, and counting would bring them back.
    if redis.call('DEL', job_key(entry[2][2])) == 1 then
      count(run, 'dead', -1)
      purged = purged + 1
    end
  end
end
return purged

-- ARGV: settings, run
-- Returns how many jobs were cancelled or dropped.
local run, purged = ARGV[2], 0
for _, entry in ipairs(redis.call('XRANGE', key('stream', run), '-', '+')) do
  finish(load(entry[2][2]), 'cancelled', 'PURGED')
  purged = purged + 1
end
trim_dead()
for _, entry in ipairs(redis.call('XRANGE', key('dead'), '-', '+')) do
  if entry[2][4] == run then
    redis.call('XDEL', key('dead'), entry[1])
    -- Without its job, the run's counts may be gone as well, and counting would bring them back.
    if redis.call('DEL', key('job', entry[2][2])) == 1 then
      count(run, 'dead', -1)
      purged = purged + 1
    end
  end
end
return purged

-- Returns the ids of the dead jobs, oldest first.
trim_dead()
local ids = {}
for _, entry in ipairs(redis.call('XRANGE', DEAD, '-', '+')) do
  if redis.call('EXISTS', job_key(entry[2][2])) == 1 then table.insert(ids, entry[2][2]) end
end
return ids

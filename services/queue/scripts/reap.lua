-- Returns {redelivered, dead, expired}; at most so many of each at a time.
local AT_ONCE = 200
local redelivered, dead, expired = 0, 0, 0
for _, id in ipairs(redis.call('ZRANGEBYSCORE', LEASES, '-inf', now, 'LIMIT', 0, AT_ONCE)) do
  if count_failure(load(id), 'LEASE_LOST') then dead = dead + 1 else redelivered = redelivered + 1 end
end
for _, id in ipairs(redis.call('ZRANGEBYSCORE', DEADLINES, '-inf', now, 'LIMIT', 0, AT_ONCE)) do
  finish(load(id), 'expired', '')
  expired = expired + 1
end
rise(AT_ONCE)
return {redelivered, dead, expired}

-- ARGV: worker, then id and attempt of each claim
-- Returns the ids whose lease is lost.
local lost, lease = {}, now + settings.lease_ms
for i = 2, #ARGV, 2 do
  if held(ARGV[i], ARGV[1], ARGV[i + 1]) then
    redis.call('ZREM', LEASES, ARGV[i]) -- a first write that a full Redis takes
    redis.call('ZADD', LEASES, lease, ARGV[i])
  else
    table.insert(lost, ARGV[i])
  end
end
return lost

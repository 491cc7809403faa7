-- ARGV: settings, worker, then id and attempt of each claim
-- Returns the ids whose lease is lost.
local lost, lease = {}, now() + settings.lease_ms
for i = 3, #ARGV, 2 do
  if held(ARGV[i], ARGV[2], ARGV[i + 1]) then
    redis.call('ZADD', key('leases'), lease, ARGV[i])
  else
    table.insert(lost, ARGV[i])
  end
end
return lost

# Joins the leader's Ray cluster and ends with it; the group is then made anew.
until ray health-check --address "$LWS_LEADER_ADDRESS:6379"
do
  echo "waiting for the leader at $LWS_LEADER_ADDRESS"
  sleep 5
done
exec ray start --address="$LWS_LEADER_ADDRESS:6379" --disable-usage-stats --block

# The head of this group's Ray cluster, then vLLM over all its pods. "$@" is the command.
ray start --head --port=6379 --include-dashboard=false --disable-usage-stats
until python3 -c 'import ray, sys
ray.init(address="auto", logging_level="ERROR")
sys.exit(sum(node["Alive"] for node in ray.nodes()) < int(sys.argv[1]))' "$LWS_GROUP_SIZE"
do
  echo "waiting for the $LWS_GROUP_SIZE pods of the group"
  sleep 5
done
# The last stage's worker, wherever it is, sends its receipts here.
export S1_ENGINE_RECEIPTS="tcp://$LWS_LEADER_ADDRESS:8002"
exec s1 "$@"

#!/bin/bash
# Two nodes on one machine: two network namespaces joined by a cable, one torchrun in each. Needs root.
#   scripts/two_nodes.sh -m ceeh.fit --config configs/ceeh.yaml rollouts.steps=2
set -eu

cleanup() {
    ip netns del ceeh-a 2>/dev/null || true
    ip netns del ceeh-b 2>/dev/null || true
}
trap cleanup EXIT
cleanup

for node in a b; do
    ip netns add "ceeh-$node"
    ip -n "ceeh-$node" link set lo up
done
ip link add ceeh-a0 netns ceeh-a type veth peer name ceeh-b0 netns ceeh-b
ip -n ceeh-a addr add 10.77.0.1/24 dev ceeh-a0
ip -n ceeh-b addr add 10.77.0.2/24 dev ceeh-b0
ip -n ceeh-a link set ceeh-a0 up
ip -n ceeh-b link set ceeh-b0 up

node() {  # name, rank, torchrun's arguments
    local name=$1 rank=$2
    shift 2
    ip netns exec "ceeh-$name" env GLOO_SOCKET_IFNAME="ceeh-${name}0" NCCL_SOCKET_IFNAME="ceeh-${name}0" \
        "${CEEH_PYTHON:-python}" -m torch.distributed.run --nnodes 2 --node-rank "$rank" --nproc-per-node 1 \
        --master-addr 10.77.0.1 --master-port 29577 "$@"
}

node b 1 "$@" &
other=$!
status=0
node a 0 "$@" || status=$?
wait "$other" || status=$?
exit "$status"

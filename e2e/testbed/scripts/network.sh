#!/usr/bin/env bash
# network.sh up|down: the bridge of pods and services. Variables: STATE, BRIDGE, NODE_IP, POD_NET,
# SERVICE_NET, and CLOSED_PORTS: a range of ports for this machine and its pods only.
#
# Packets to the ranges of pods and Services never leave through the machine's default route, even
# while the test-bed is only partly up: unreachable routes rank below the bridge's own.
set -euo pipefail

POD_RANGE=${NODE_IP%.*.*}.0.0/16
LAST_METRIC=4000000
TABLE=layra_testbed
# Settings that kubelet, kube-proxy and the CNI plugins overwrite; `down` restores them.
SYSCTLS="net.ipv4.ip_forward vm.overcommit_memory vm.panic_on_oom kernel.panic kernel.panic_on_oops
kernel.keys.root_maxkeys kernel.keys.root_maxbytes net.netfilter.nf_conntrack_max
net.netfilter.nf_conntrack_tcp_timeout_established
net.netfilter.nf_conntrack_tcp_timeout_close_wait net.bridge.bridge-nf-call-iptables"

up() {
  for key in $SYSCTLS; do
    if value=$(sysctl -n "$key" 2>/dev/null); then echo "$key=$value"; fi
  done >"$STATE/sysctl.saved"
  ip route replace unreachable "$POD_RANGE" metric $LAST_METRIC
  ip route replace unreachable "$SERVICE_NET" metric $LAST_METRIC
  ip link show "$BRIDGE" >/dev/null 2>&1 || ip link add "$BRIDGE" type bridge
  ip address replace "$NODE_IP/${POD_NET#*/}" dev "$BRIDGE"
  ip link set "$BRIDGE" up
  ip route replace "$SERVICE_NET" dev "$BRIDGE" src "$NODE_IP"
  sysctl -qw net.ipv4.ip_forward=1
  # Services between pods on one bridge need bridged packets to pass through netfilter.
  if [ -e /proc/sys/net/bridge ]; then sysctl -qw net.bridge.bridge-nf-call-iptables=1; fi
  # Milvus listens on every address, whatever its configuration says.
  nft -f - <<NFT
table inet $TABLE {
  chain input {
    type filter hook input priority filter;
    tcp dport $CLOSED_PORTS iifname != { "lo", "$BRIDGE" } drop
  }
}
NFT
}

down() {
  nft delete table inet $TABLE 2>/dev/null || true
  ip link delete "$BRIDGE" 2>/dev/null || true
  if [ -s "$STATE/sysctl.saved" ]; then
    # One by one: a key of an unloaded module must not prevent the others.
    while read -r setting; do sysctl -qw "$setting" 2>/dev/null || true; done <"$STATE/sysctl.saved"
    rm -f "$STATE/sysctl.saved"
  fi
  ip route delete unreachable "$POD_RANGE" metric $LAST_METRIC 2>/dev/null || true
  ip route delete unreachable "$SERVICE_NET" metric $LAST_METRIC 2>/dev/null || true
}

"$1"

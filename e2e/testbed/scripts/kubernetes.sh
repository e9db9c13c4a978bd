#!/usr/bin/env bash
# kubernetes.sh up|down|restart_api_server: one real Kubernetes node on this machine, without Docker or systemd.
#
# The test-bed calls it with these variables (see e2e/testbed/src/kubernetes.rs):
#   STATE   the folder of everything mutable; STATE/kubernetes is made and removed here
#   BIN     the folder of etcd, kube-apiserver, ... and kubectl
#   PAUSE   the OCI archive of localhost/pause:1
#   PORT    the first of the ten ports that the cluster listens on
#   BRIDGE, NODE_IP, POD_NET, SERVICE_NET, SERVICE_API: the network, made by network.sh
# Nothing listens outside loopback and the bridge.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
. "$here/daemon.sh"

K=$STATE/kubernetes
P=$K/pki
SOCKET=$K/containerd.sock
NODE=layra-testbed
API=https://$NODE_IP:$PORT
export PATH="$BIN:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin" KUBECACHEDIR=$K/kubectl-cache
export KUBECONFIG=$STATE/kubeconfig

# With a timeout: a frozen containerd would block everything.
ctr() { timeout 10 ctr --address "$SOCKET" --namespace k8s.io "$@"; }

# One CA; the certificates' CN and O are the identities that RBAC knows.
make_pki() {
  cd "$P" || return
  new_key ca
  openssl req -x509 -new -key ca.key -days 365 -subj /CN=layra-testbed -out ca.crt \
    -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign,cRLSign
  local names="DNS:localhost,DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc"
  new_certificate apiserver /CN=kube-apiserver serverAuth \
    "IP:$NODE_IP,IP:$SERVICE_API,IP:127.0.0.1,$names,DNS:kubernetes.default.svc.cluster.local"
  new_certificate kubelet-server "/O=system:nodes/CN=system:node:$NODE" serverAuth \
    "IP:$NODE_IP,DNS:$NODE"
  new_certificate admin /O=system:masters/CN=admin clientAuth
  new_certificate to-kubelet /O=system:masters/CN=kube-apiserver-kubelet-client clientAuth
  new_certificate aggregator /CN=front-proxy-client clientAuth
  new_certificate kubelet "/O=system:nodes/CN=system:node:$NODE" clientAuth
  new_certificate controller-manager /CN=system:kube-controller-manager clientAuth
  new_certificate scheduler /CN=system:kube-scheduler clientAuth
  new_certificate proxy /CN=system:kube-proxy clientAuth
  new_key service-accounts
  openssl ec -in service-accounts.key -pubout -out service-accounts.pub
  write_kubeconfig admin "$KUBECONFIG"
  for name in kubelet controller-manager scheduler proxy; do
    write_kubeconfig "$name" "$P/$name.kubeconfig"
  done
}

new_key() { openssl ecparam -name prime256v1 -genkey -noout -out "$1.key"; }

new_certificate() { # NAME SUBJECT USAGE [ALTERNATIVE_NAMES]
  new_key "$1"
  openssl req -new -key "$1.key" -subj "$2" -out "$1.csr"
  {
    printf 'basicConstraints=CA:FALSE\nextendedKeyUsage=%s\n' "$3"
    [ -z "${4:-}" ] || echo "subjectAltName=$4"
  } >"$1.ext"
  openssl x509 -req -in "$1.csr" -CA ca.crt -CAkey ca.key -CAcreateserial -days 365 \
    -extfile "$1.ext" -out "$1.crt"
}

write_kubeconfig() { # NAME FILE: self-contained, the certificates are embedded
  cat >"$2" <<YAML
apiVersion: v1
kind: Config
clusters:
- name: layra-testbed
  cluster: {server: "$API", certificate-authority-data: $(base64 -w0 <ca.crt)}
users:
- name: $1
  user:
    client-certificate-data: $(base64 -w0 <"$1.crt")
    client-key-data: $(base64 -w0 <"$1.key")
contexts:
- name: layra-testbed
  context: {cluster: layra-testbed, user: $1}
current-context: layra-testbed
YAML
  chmod 600 "$2"
}

start_etcd() {
  local client=http://127.0.0.1:$((PORT + 1)) peer=http://127.0.0.1:$((PORT + 2))
  # The data is temporary: no fsync.
  start_daemon etcd etcd --name testbed --data-dir "$K/etcd" --unsafe-no-fsync --log-level warn \
    --listen-client-urls "$client" --advertise-client-urls "$client" \
    --listen-peer-urls "$peer" --initial-advertise-peer-urls "$peer" \
    --initial-cluster "testbed=$peer"
}

start_api_server() {
  start_daemon kube-apiserver kube-apiserver --etcd-servers="http://127.0.0.1:$((PORT + 1))" \
    --bind-address="$NODE_IP" --advertise-address="$NODE_IP" --secure-port="$PORT" \
    --tls-cert-file="$P/apiserver.crt" --tls-private-key-file="$P/apiserver.key" \
    --client-ca-file="$P/ca.crt" --authorization-mode=Node,RBAC \
    --enable-admission-plugins=NodeRestriction \
    --service-account-issuer=https://kubernetes.default.svc.cluster.local \
    --service-account-signing-key-file="$P/service-accounts.key" \
    --service-account-key-file="$P/service-accounts.pub" \
    --service-cluster-ip-range="$SERVICE_NET" \
    --kubelet-client-certificate="$P/to-kubelet.crt" --kubelet-client-key="$P/to-kubelet.key" \
    --kubelet-certificate-authority="$P/ca.crt" --kubelet-preferred-address-types=InternalIP \
    --requestheader-client-ca-file="$P/ca.crt" \
    --requestheader-allowed-names=front-proxy-client \
    --requestheader-username-headers=X-Remote-User \
    --requestheader-group-headers=X-Remote-Group \
    --requestheader-extra-headers-prefix=X-Remote-Extra- \
    --proxy-client-cert-file="$P/aggregator.crt" --proxy-client-key-file="$P/aggregator.key" \
    --enable-aggregator-routing=true --allow-privileged=true --profiling=false
}

# containerd with its own root, state, socket and runc root; no systemd cgroups.
start_containerd() {
  cat >"$K/containerd.toml" <<TOML
version = 2
root = "$K/containerd"
state = "$K/containerd-state"
disabled_plugins = ["io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.internal.v1.opt", "io.containerd.tracing.processor.v1.otlp"]
[grpc]
  address = "$SOCKET"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "localhost/pause:1"
  netns_mounts_under_state_dir = true
  disable_apparmor = true
  # Without CAP_SYS_RESOURCE an oom_score_adj cannot be lowered: runc would fail.
  restrict_oom_score_adj = true
  stream_server_address = "127.0.0.1"
  stream_server_port = "$((PORT + 9))"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "$K/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
        Root = "$K/runc"
TOML
  # No masquerading: pods reach the host, each other and Services, but nothing outside.
  cat >"$K/cni/10-testbed.conflist" <<JSON
{"cniVersion": "0.4.0", "name": "layra-testbed", "plugins": [
  {"type": "bridge", "bridge": "$BRIDGE", "isGateway": true, "ipMasq": false, "hairpinMode": true,
   "ipam": {"type": "host-local", "dataDir": "$K/cni-addresses",
            "ranges": [[{"subnet": "$POD_NET", "gateway": "$NODE_IP"}]],
            "routes": [{"dst": "0.0.0.0/0"}]}}]}
JSON
  start_daemon containerd containerd --config "$K/containerd.toml"
  wait_for 30 containerd ctr version || return
  ctr images import "$PAUSE" >/dev/null
}

start_controllers() {
  # With its default request rate, the controller manager takes 4 s longer to start.
  start_daemon kube-controller-manager kube-controller-manager \
    --kubeconfig="$P/controller-manager.kubeconfig" --bind-address=127.0.0.1 \
    --secure-port=$((PORT + 3)) --leader-elect=false --use-service-account-credentials=true \
    --service-account-private-key-file="$P/service-accounts.key" --root-ca-file="$P/ca.crt" \
    --cluster-signing-cert-file="$P/ca.crt" --cluster-signing-key-file="$P/ca.key" \
    --flex-volume-plugin-dir="$K/kubelet/plugins" --kube-api-qps=200 --kube-api-burst=400 \
    --profiling=false
  start_daemon kube-scheduler kube-scheduler --kubeconfig="$P/scheduler.kubeconfig" \
    --bind-address=127.0.0.1 --secure-port=$((PORT + 4)) --leader-elect=false --profiling=false
}

start_node() {
  cat >"$K/kubelet.yaml" <<YAML
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
failCgroupV1: false
cgroupDriver: cgroupfs
failSwapOn: false
oomScoreAdj: 0
containerRuntimeEndpoint: unix://$SOCKET
address: $NODE_IP
port: $((PORT + 5))
healthzPort: $((PORT + 6))
tlsCertFile: $P/kubelet-server.crt
tlsPrivateKeyFile: $P/kubelet-server.key
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: $P/ca.crt}}
authorization: {mode: Webhook}
clusterDomain: cluster.local
podLogsDir: $K/pod-logs
volumePluginDir: $K/kubelet/plugins
# With the default of 1m, a CrashLoopBackOff shows only after 4 minutes.
syncFrequency: 10s
makeIPTablesUtilChains: false
serializeImagePulls: false
# Images cannot be pulled again: never garbage-collect them.
imageGCHighThresholdPercent: 100
evictionHard: {memory.available: 100Mi, nodefs.available: 1%, imagefs.available: 1%, nodefs.inodesFree: 1%, imagefs.inodesFree: 1%}
YAML
  cat >"$K/proxy.yaml" <<YAML
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
# One nftables table per family: deleting it cleans everything up.
mode: nftables
hostnameOverride: $NODE
clientConnection: {kubeconfig: $P/proxy.kubeconfig}
oomScoreAdj: 0
bindAddress: $NODE_IP
healthzBindAddress: 127.0.0.1:$((PORT + 7))
metricsBindAddress: 127.0.0.1:$((PORT + 8))
clusterCIDR: $POD_NET
conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
YAML
  start_daemon kubelet kubelet --config="$K/kubelet.yaml" --kubeconfig="$P/kubelet.kubeconfig" \
    --root-dir="$K/kubelet" --cert-dir="$P" --hostname-override=$NODE --node-ip="$NODE_IP"
  start_daemon kube-proxy kube-proxy --config="$K/proxy.yaml"
}

node_is_ready() {
  local path='{.status.conditions[?(@.type=="Ready")].status}{.spec.taints}'
  [ "$(kubectl get node $NODE -o jsonpath="$path")" = True ]
}

up() {
  mkdir -p "$P" "$K/cni" "$K/kubelet"
  chmod 700 "$P"
  make_pki >"$STATE/log/openssl.log" 2>&1 || { tail -5 "$STATE/log/openssl.log" >&2; return 1; }
  cd "$K" || return
  start_etcd
  start_api_server
  start_containerd || return
  wait_for 60 kube-apiserver kubectl get --raw /readyz || return
  start_controllers
  start_node
  wait_for 90 "the node to be ready" node_is_ready || return
  wait_for 30 "the default ServiceAccount" \
    kubectl -n default get serviceaccount/default configmap/kube-root-ca.crt
}

# As after a crash: its data is etcd's.
restart_api_server() {
  cd "$K" || return
  stop_daemon kube-apiserver KILL
  wait_for 120 kube-apiserver api_server_answers_or_starts_again
}

# What the kubelet does for a static pod. A start may fail: the threads of the killed process may
# hold the port for longer than the process can be seen, and a slow machine may not finish the first
# checks in their time.
api_server_answers_or_starts_again() {
  is_alive kube-apiserver || start_api_server
  kubectl --request-timeout=5s get --raw /readyz
}

# The shims of containers whose containerd is gone: their arguments name its socket.
our_shims() {
  local file pid
  for file in /proc/[0-9]*/cmdline; do
    if tr '\0' ' ' 2>/dev/null <"$file" | grep -q "containerd-shim.* -address $SOCKET "; then
      pid=${file#/proc/}
      echo "${pid%/cmdline}"
    fi
  done
}

stop_containers() {
  local id pid child
  if is_alive containerd && ctr version >/dev/null 2>&1; then
    for _ in $(seq 50); do
      for id in $(ctr tasks ls -q 2>/dev/null); do ctr tasks rm --force "$id" >/dev/null 2>&1; done
      [ -n "$(ctr tasks ls -q 2>/dev/null)" ] || break
      sleep 0.1
    done
  fi
  stop_daemon containerd TERM
  for pid in $(our_shims); do
    for child in $(cat "/proc/$pid"/task/*/children 2>/dev/null); do kill -KILL "$child" 2>/dev/null; done
    kill -KILL "$pid" 2>/dev/null
  done
  for _ in $(seq 50); do
    [ -n "$(our_shims)" ] || break
    sleep 0.1
  done
}

# Overlays, token volumes, shm, network namespaces: deepest first.
unmount_all() {
  local mount
  for _ in 1 2 3; do
    awk -v prefix="$K/" 'index($5, prefix) == 1 {print $5}' /proc/self/mountinfo | sort -r |
      while read -r mount; do umount "$mount" 2>/dev/null || umount -l "$mount" 2>/dev/null; done
  done
}

# Paths outside STATE that kubelet, the shims and the CNI plugins always use.
remove_fixed_paths() {
  local file id group
  for file in /var/lib/cni/results/layra-testbed-*-eth0; do
    [ -e "$file" ] || continue
    id=${file##*/layra-testbed-}
    rm -f "$file" "/var/lib/cni/results/cni-loopback-${id%-eth0}-lo"
  done
  for group in /sys/fs/cgroup/kubepods /sys/fs/cgroup/*/kubepods; do
    [ -d "$group" ] && find "$group" -depth -type d -exec rmdir {} + 2>/dev/null
  done
  if [ -d /var/log/containers ]; then
    find /var/log/containers -type l -lname "$K/*" -delete
  fi
  for file in /run/containerd/s/*; do
    if [ -S "$file" ] && ! grep -qF "$file" /proc/net/unix; then rm -f "$file"; fi
  done
  rm -rf /var/lib/kubelet/device-plugins
  rmdir /var/lib/cni/results /var/lib/cni /var/log/containers /var/lib/kubelet \
    /run/containerd/s /run/containerd 2>/dev/null
}

down() {
  # The kubelet first, so that nothing is restarted. No graceful shutdown: the data is temporary.
  for name in kubelet kube-proxy kube-scheduler kube-controller-manager kube-apiserver etcd; do
    stop_daemon $name KILL
  done
  stop_containers
  unmount_all
  for family in ip ip6; do nft delete table $family kube-proxy 2>/dev/null; done
  remove_fixed_paths
  rm -rf --one-file-system "$K" "$KUBECONFIG"
  [ ! -e "$K" ]
}

"$1"

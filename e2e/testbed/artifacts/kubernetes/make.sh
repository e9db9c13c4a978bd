# The control plane and the node agents, from the Go module k8s.io/kubernetes. Its staging modules
# are required at v0.0.0 there: go.mod replaces each by its published version.
version=1.36.3
package=k8s.io/component-base/version
# All at once: one is linked while others are compiled.
go_build ./ \
  "-X $package.gitVersion=v$version -X $package.gitMajor=1 -X $package.gitMinor=36 -X $package.gitTreeState=clean" \
  k8s.io/kubernetes/cmd/{kube-apiserver,kube-controller-manager,kube-scheduler,kubelet,kube-proxy}

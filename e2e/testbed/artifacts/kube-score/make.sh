# Judges rendered objects of Kubernetes.
go_build kube-score '' github.com/zegl/kube-score/cmd/kube-score

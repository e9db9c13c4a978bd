# Kubernetes' store. 3.6: older releases do not answer the API server's streaming lists.
go_build etcd '' go.etcd.io/etcd/server/v3

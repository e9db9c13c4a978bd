//! Values of the chart layra-operator, for tests.

use serde_json::{Value, json};

/// Every switch of the chart on, and every list filled.
#[must_use]
pub fn everything() -> Value {
    json!({
        "image": {"repository": "registry.example/layra-operator", "tag": "1.2.3",
            "pullPolicy": "Always"},
        "workerImage": {"repository": "registry.example/layra-worker",
            "digest": format!("sha256:{}", "0".repeat(64))},
        "imagePullSecrets": [{"name": "registry"}],
        "watchNamespaces": ["legal", "sales"],
        "replicas": 2,
        "serviceAccount": {"annotations": {"example.com/identity": "ingestion"}},
        "cliRole": {"create": true, "subjects": [{"kind": "Group", "name": "operators",
            "apiGroup": "rbac.authorization.k8s.io"}]},
        "extraEnv": [{"name": "SSL_CERT_FILE", "value": "/authorities/ca.crt"}],
        "extraVolumes": [{"name": "authorities", "configMap": {"name": "authorities"}}],
        "extraVolumeMounts": [{"name": "authorities", "mountPath": "/authorities"}],
        "serviceMonitor": {"create": true, "labels": {"release": "prometheus"}, "interval": "30s"},
        "podMonitor": {"create": true, "labels": {"release": "prometheus"}, "interval": "30s"},
        "networkPolicy": {
            "create": true,
            "metricsFrom": [{"namespaceSelector": {
                "matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}],
            "queryFrom": [{"podSelector": {"matchLabels": {"app": "layra"}}}],
            "operatorEgress": [{"ports": [{"port": 6443}]}],
            "workerEgress": [{"ports": [{"port": 9092}]}],
        },
        "nodeSelector": {"kubernetes.io/arch": "amd64"},
        "tolerations": [{"key": "control", "operator": "Exists"}],
        "affinity": {"nodeAffinity": {}},
        "priorityClassName": "system-cluster-critical",
        "podLabels": {"sidecar.istio.io/inject": "false"},
        "podAnnotations": {"example.com/pod": "yes"},
        "commonLabels": {"team": "search"},
        "commonAnnotations": {"example.com/owner": "search"},
    })
}

/// As [`everything`], with the dashboards, whose text has a test of its own.
#[must_use]
pub fn everything_with_dashboards() -> Value {
    let mut values = everything();
    values["dashboards"] = json!({"pipeline": true, "fleet": true,
        "namespace": "monitoring", "annotations": {"grafana_folder": "LAYRA"}});
    values
}

//! A headless Service, so that Prometheus finds the metrics of every worker.

use k8s_openapi::{
    api::core::v1::{Service, ServicePort, ServiceSpec},
    apimachinery::pkg::util::intstr::IntOrString,
};
use kube::ResourceExt;
use layra_crds::{IngestionPipeline, WORKER_HTTP_PORT};

pub(super) fn build(pipeline: &IngestionPipeline) -> Service {
    Service {
        metadata: super::metadata(pipeline),
        spec: Some(ServiceSpec {
            cluster_ip: Some("None".to_owned()),
            // A worker that is loading its model has metrics too.
            publish_not_ready_addresses: Some(true),
            selector: Some(super::selector_labels(&pipeline.name_any())),
            ports: Some(vec![ServicePort {
                name: Some("metrics".to_owned()),
                port: WORKER_HTTP_PORT.into(),
                protocol: Some("TCP".to_owned()),
                target_port: Some(IntOrString::String("metrics".to_owned())),
                ..ServicePort::default()
            }]),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}

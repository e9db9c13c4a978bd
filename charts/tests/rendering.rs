//! What the charts render with every switch. Helm itself renders; `cargo insta review` shows what a
//! change does to the objects.

use std::collections::BTreeSet;

use layra_charts::helm;
use layra_charts::values::{everything, everything_with_dashboards};
use serde_json::{Value, json};

const OPERATOR: &str = "layra-operator";
const DEFINITION: &str = "layra-crds";

fn rendered(release: &str, values: &Value) -> Vec<Value> {
    let text = helm::template(OPERATOR, release, "rag", values).expect("the chart is rendered");
    helm::objects(&text).expect("YAML")
}

/// Kind, namespace and name of each object.
fn names(objects: &[Value]) -> BTreeSet<String> {
    let name = |object: &Value| {
        let metadata = &object["metadata"];
        format!(
            "{} {} {}",
            object["kind"], metadata["namespace"], metadata["name"]
        )
    };
    objects.iter().map(name).collect()
}

fn kinds(objects: &[Value]) -> BTreeSet<&str> {
    objects
        .iter()
        .filter_map(|object| object["kind"].as_str())
        .collect()
}

fn of_kind<'a>(objects: &'a [Value], kind: &str) -> Vec<&'a Value> {
    objects
        .iter()
        .filter(|object| object["kind"] == kind)
        .collect()
}

#[test]
fn with_default_values() {
    let text = helm::template(OPERATOR, "layra-operator", "rag", &json!({})).unwrap();
    insta::assert_snapshot!("default", text);
}

#[test]
fn with_every_switch() {
    let text = helm::template(OPERATOR, "layra-operator", "rag", &everything()).unwrap();
    insta::assert_snapshot!("everything", text);
}

/// Helm writes large whole numbers as decimal ones.
fn with_decimal_numbers(value: &mut Value) {
    match value {
        Value::Number(number) => *value = json!(number.as_f64()),
        Value::Array(values) => values.iter_mut().for_each(with_decimal_numbers),
        Value::Object(fields) => fields.values_mut().for_each(with_decimal_numbers),
        Value::Null | Value::Bool(_) | Value::String(_) => {}
    }
}

#[test]
fn the_definition_with_its_roles() {
    let text = helm::template(DEFINITION, "layra-crds", "rag", &json!({})).unwrap();
    let mut objects = helm::objects(&text).expect("YAML");
    let stored =
        std::fs::read_to_string(layra_charts::path("layra-crds/crd/ingestionpipeline.yaml"));
    let mut stored = helm::objects(&stored.unwrap()).unwrap().remove(0);
    with_decimal_numbers(&mut stored);
    for object in objects
        .iter_mut()
        .filter(|object| object["spec"].is_object())
    {
        with_decimal_numbers(object);
        assert!(
            object["spec"] == stored["spec"],
            "the definition as it is generated"
        );
        object["spec"] = json!("...");
    }
    insta::assert_yaml_snapshot!("definition", objects);

    let bare = json!({"keep": false, "userRoles": {"create": false}});
    let text = helm::template(DEFINITION, "layra-crds", "rag", &bare).unwrap();
    assert_eq!(
        kinds(&helm::objects(&text).expect("YAML")),
        BTreeSet::from(["CustomResourceDefinition"])
    );
    assert!(!text.contains("resource-policy"));
}

#[test]
fn lint_has_nothing_against_the_charts() {
    for values in [json!({}), everything(), everything_with_dashboards()] {
        helm::lint(OPERATOR, &values).unwrap();
    }
    helm::lint(DEFINITION, &json!({})).unwrap();
}

#[test]
fn a_value_that_does_not_exist_is_refused() {
    for wrong in [
        json!({"replica": 2}),
        json!({"networkPolicy": {"enabled": true}}),
        json!({"serviceMonitor": {"interval": "soon"}}),
    ] {
        assert!(
            helm::template(OPERATOR, "a", "rag", &wrong).is_err(),
            "{wrong}"
        );
    }
}

#[test]
fn each_switch_adds_its_kind_alone() {
    let default = names(&rendered("layra-operator", &json!({})));
    for (values, kind, count) in [
        (
            json!({"serviceMonitor": {"create": true}}),
            "ServiceMonitor",
            1,
        ),
        (json!({"podMonitor": {"create": true}}), "PodMonitor", 1),
        (
            json!({"networkPolicy": {"create": true}}),
            "NetworkPolicy",
            3,
        ),
        (json!({"dashboards": {"pipeline": true}}), "ConfigMap", 1),
        (json!({"dashboards": {"fleet": true}}), "ConfigMap", 1),
        (json!({"replicas": 2}), "PodDisruptionBudget", 1),
    ] {
        let objects = rendered("layra-operator", &values);
        assert_eq!(of_kind(&objects, kind).len(), count, "{values}");
        let added: Vec<String> = names(&objects).difference(&default).cloned().collect();
        assert!(
            added.len() == count && added.iter().all(|it| it.contains(kind)),
            "{added:?}"
        );
    }
}

/// The operator's rights end at the watched namespaces, and two releases share nothing.
#[test]
fn two_releases_live_in_one_cluster() {
    let of = |release: &str, namespace: &str| {
        let mut values = everything_with_dashboards();
        values["watchNamespaces"] = json!([namespace]);
        rendered(release, &values)
    };
    let (first, second) = (of("first", "legal"), of("second", "sales"));
    assert!(names(&first).is_disjoint(&names(&second)));
    for object in first.iter().chain(&second) {
        assert!(
            object["metadata"]["namespace"].is_string(),
            "of the cluster: {object}"
        );
    }
}

#[test]
fn two_replicas_are_spread_and_one_of_them_may_be_stopped() {
    let objects = rendered("layra-operator", &json!({"replicas": 2}));
    let spec = &of_kind(&objects, "Deployment")[0]["spec"]["template"]["spec"];
    let spread = spec["topologySpreadConstraints"].as_array().unwrap();
    let keys: Vec<_> = spread
        .iter()
        .map(|it| it["topologyKey"].as_str().unwrap())
        .collect();
    assert_eq!(
        keys,
        ["kubernetes.io/hostname", "topology.kubernetes.io/zone"]
    );
    assert_eq!(
        of_kind(&objects, "PodDisruptionBudget")[0]["spec"]["maxUnavailable"],
        1
    );

    let one = rendered("layra-operator", &json!({}));
    let spec = &of_kind(&one, "Deployment")[0]["spec"]["template"]["spec"];
    assert!(spec["topologySpreadConstraints"].is_null());
}

/// A policy that selects nothing, or names a port that no container has, would be worse than none.
#[test]
fn the_network_policies_select_the_pods_and_their_ports() {
    let objects = rendered("layra-operator", &everything());
    let policies = of_kind(&objects, "NetworkPolicy");
    let template = &of_kind(&objects, "Deployment")[0]["spec"]["template"];
    let labels = template["metadata"]["labels"].as_object().unwrap();
    let selected = |policy: &Value| {
        let wanted = policy["spec"]["podSelector"]["matchLabels"]
            .as_object()
            .unwrap()
            .clone();
        wanted
            .iter()
            .all(|(key, value)| labels.get(key) == Some(value))
    };
    let (operator, others): (Vec<&Value>, Vec<&Value>) =
        policies.iter().copied().partition(|it| selected(it));
    let (query, workers): (Vec<&Value>, Vec<&Value>) = others.into_iter().partition(|it| {
        it["spec"]["podSelector"]["matchLabels"]["app.kubernetes.io/name"] == "layra-query"
    });
    assert_eq!((operator.len(), workers.len(), query.len()), (1, 2, 2));
    for policy in query {
        let ingress = &policy["spec"]["ingress"];
        assert_eq!(ingress[0]["ports"][0]["port"], "model");
        assert_eq!(
            ingress[0]["from"][0]["podSelector"]["matchLabels"]["app"],
            "layra"
        );
        assert_eq!(ingress[1]["ports"][0]["port"], "metrics");
        let operator = &ingress[1]["from"][0]["podSelector"]["matchLabels"];
        let mut operator = operator.as_object().unwrap().iter();
        assert!(operator.all(|(key, value)| labels.get(key) == Some(value)));
    }
    let port = &template["spec"]["containers"][0]["ports"][0]["name"];
    assert_eq!(&operator[0]["spec"]["ingress"][0]["ports"][0]["port"], port);
    for policy in workers {
        let ingress = &policy["spec"]["ingress"][0];
        assert_eq!(
            ingress["ports"][0]["port"], "metrics",
            "the port of the workers"
        );
        let operator = &ingress["from"][0]["podSelector"]["matchLabels"];
        let operator = operator.as_object().unwrap();
        assert!(
            operator
                .iter()
                .all(|(key, value)| labels.get(key) == Some(value))
        );
    }
}

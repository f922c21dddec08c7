//! Objects in, as JSON of the API; states out.

mod endpoints;
mod equivalence;
mod pods;
mod policies;

use std::sync::Arc;

use adit_flow::WorkloadName;
use serde_json::{Value, json};

use super::*;
use crate::kubernetes::kind::{BUILT_IN, FAMILIES};
use crate::kubernetes::object;
use crate::snapshot::{Service, Workload};

/// The node that the model is for; the other one is `far`.
const HERE: &str = "here";

/// A model and the words to fill it.
struct World {
    model: Model,
}

fn kind(plural: &str) -> Kind {
    let optional = FAMILIES.iter().flat_map(|family| {
        family
            .served_as
            .iter()
            .flat_map(|version| family.kinds_of(*version))
    });
    BUILT_IN
        .into_iter()
        .chain(optional)
        .find(|kind| kind.to_string() == plural)
        .unwrap_or_else(|| panic!("no kind {plural}"))
}

fn item(plural: &str, object: &Value) -> Item<Object> {
    let text = object.to_string();
    let domain = "demo.local".parse().unwrap();
    Item {
        key: object::key(&text).unwrap(),
        object: object::read(kind(plural), &text, &domain).unwrap(),
    }
}

fn name(text: &str) -> WorkloadName {
    text.parse().unwrap()
}

impl World {
    fn new() -> Self {
        Self {
            model: Model::new(HERE, "demo.local".parse().unwrap()),
        }
    }

    /// With namespace `shop` in the mesh, and two nodes.
    fn with_nodes() -> Self {
        let mut world = Self::new();
        world.put(
            "namespaces",
            namespace("shop", json!({"istio.io/dataplane-mode": "ambient"})),
        );
        world.put("nodes", node(HERE, &["192.0.2.1"], &["10.244.0.0/24"]));
        world.put("nodes", node("far", &["192.0.2.2"], &["10.244.1.0/24"]));
        world
    }

    fn put(&mut self, plural: &str, object: Value) -> bool {
        let what = What::Changed(item(plural, &object));
        self.model.apply(Change {
            kind: kind(plural),
            what,
        })
    }

    fn delete(&mut self, plural: &str, key: &str) -> bool {
        let key = key.parse().unwrap_or_else(|_| Key::new("", key));
        let what = What::Changed(Item { key, object: None });
        self.model.apply(Change {
            kind: kind(plural),
            what,
        })
    }

    fn list(&mut self, plural: &str, objects: &[Value]) -> bool {
        let items = objects.iter().map(|object| item(plural, object)).collect();
        self.model.apply(Change {
            kind: kind(plural),
            what: What::Listed(items),
        })
    }

    fn workload(&mut self, text: &str) -> Option<Arc<Workload>> {
        self.model.state().snapshot.workloads.get(&name(text)).cloned()
    }

    fn service(&mut self, text: &str) -> Arc<Service> {
        Arc::clone(&self.model.state().snapshot.services[&name(text)])
    }

    fn wanted(&mut self) -> Vec<String> {
        let wanted = self.model.state().wanted;
        wanted.into_iter().map(|pod| pod.name.to_string()).collect()
    }
}

fn namespace(name: &str, labels: Value) -> Value {
    json!({"metadata": {"name": name, "labels": labels}})
}

fn node(name: &str, addresses: &[&str], pod_cidrs: &[&str]) -> Value {
    let addresses: Vec<Value> = addresses
        .iter()
        .map(|address| json!({"type": "InternalIP", "address": address}))
        .chain([json!({"type": "Hostname", "address": name})])
        .collect();
    json!({"metadata": {"name": name}, "spec": {"podCIDRs": pod_cidrs}, "status": {"addresses": addresses}})
}

/// A ready pod of service account `web` with a named port.
fn pod(name: &str, node: &str, addresses: &[&str]) -> Value {
    let (namespace, name) = name.split_once('/').unwrap();
    let ips: Vec<Value> = addresses.iter().map(|ip| json!({"ip": ip})).collect();
    json!({
        "metadata": {"namespace": namespace, "name": name, "uid": format!("uid-{name}"), "labels": {"app": "web"}},
        "spec": {
            "nodeName": node,
            "serviceAccountName": "web",
            "containers": [{"name": "web", "ports": [{"name": "http", "containerPort": 8080, "protocol": "TCP"}]}],
        },
        "status": {
            "phase": "Running",
            "podIP": addresses.first(),
            "podIPs": ips,
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    })
}

/// `object` with `value` at a JSON pointer, whose parents are made if need be.
fn with(mut object: Value, pointer: &str, value: Value) -> Value {
    let mut at = &mut object;
    for part in pointer.split('/').skip(1) {
        let part = part.replace("~1", "/");
        at = match at {
            Value::Array(items) => &mut items[part.parse::<usize>().unwrap()],
            other => &mut other[part],
        };
    }
    *at = value;
    object
}

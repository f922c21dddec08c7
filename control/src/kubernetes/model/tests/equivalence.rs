//! A model that was kept up to date is the same as one that was told the outcome.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const SLICES: &str = "endpointslices.discovery.k8s.io";

/// One step of a cluster's life: an object as it is from now on, or its end.
#[derive(Clone, Debug)]
struct Step {
    plural: &'static str,
    key: String,
    object: Option<Value>,
}

fn pods() -> impl Strategy<Value = Step> {
    let number = 0..6_u8;
    (number, any::<[bool; 6]>(), 0..4_u8).prop_map(
        |(number, [here, host, leaving, labelled, enabled, ready], life)| {
            let name = format!("shop/p{number}");
            let (node, address) = match (here, host) {
                (true, false) => (HERE, format!("10.244.0.{number}")),
                (false, false) => ("far", format!("10.244.1.{number}")),
                (true, true) => (HERE, "192.0.2.1".to_owned()),
                (false, true) => ("far", "192.0.2.2".to_owned()),
            };
            let mut object = pod(&name, node, &[&address]);
            object["spec"]["hostNetwork"] = json!(host);
            if leaving {
                object["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
            }
            if labelled {
                object["metadata"]["labels"]["istio.io/dataplane-mode"] = json!("ambient");
            }
            if enabled {
                object["metadata"]["annotations"] = json!({"ambient.istio.io/redirection": "enabled"});
            }
            object["status"]["conditions"][0]["status"] = json!(if ready { "True" } else { "False" });
            Step {
                plural: "pods",
                key: name,
                object: (life > 0).then_some(object),
            }
        },
    )
}

fn slices() -> impl Strategy<Value = Step> {
    let endpoints = prop::collection::vec((0..6_u8, any::<[bool; 4]>()), 0..4);
    (0..3_u8, 0..2_u8, endpoints, 0..4_u8).prop_map(|(number, service, endpoints, life)| {
        let endpoint = |(pod, [here, named, ready, leaving]): (u8, [bool; 4])| {
            let mut endpoint = json!({
                "addresses": [format!("10.244.{}.{pod}", u8::from(!here))],
                "conditions": {"ready": ready, "serving": true, "terminating": leaving},
            });
            if named {
                endpoint["targetRef"] =
                    json!({"kind": "Pod", "namespace": "shop", "name": format!("p{pod}")});
            }
            endpoint
        };
        let object = json!({
            "metadata": {
                "namespace": "shop", "name": format!("e{number}"),
                "labels": {"kubernetes.io/service-name": format!("s{service}")},
            },
            "addressType": "IPv4",
            "endpoints": endpoints.into_iter().map(endpoint).collect::<Vec<_>>(),
            "ports": [{"name": "http", "port": 8080 + u16::from(number), "protocol": "TCP"}],
        });
        Step {
            plural: SLICES,
            key: format!("shop/e{number}"),
            object: (life > 0).then_some(object),
        }
    })
}

fn services() -> impl Strategy<Value = Step> {
    (0..2_u8, any::<bool>(), 0..4_u8).prop_map(|(number, local, life)| {
        let policy = if local { "Local" } else { "Cluster" };
        let object = json!({
            "metadata": {"namespace": "shop", "name": format!("s{number}")},
            "spec": {
                "clusterIPs": [format!("10.96.0.{number}")],
                "internalTrafficPolicy": policy,
                "ports": [{"name": "http", "port": 80, "protocol": "TCP"}],
            },
        });
        Step {
            plural: "services",
            key: format!("shop/s{number}"),
            object: (life > 0).then_some(object),
        }
    })
}

fn nodes() -> impl Strategy<Value = Step> {
    (any::<bool>(), 0..3_u8, 0..4_u8).prop_map(|(here, subnet, life)| {
        // The first address of a subnet is a pod's too, now and then.
        let name = if here { HERE } else { "far" };
        Step {
            plural: "nodes",
            key: name.to_owned(),
            object: (life > 0).then(|| node(name, &["192.0.2.1"], &[&format!("10.244.{subnet}.0/24")])),
        }
    })
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec(
        prop_oneof![4 => pods(), 3 => slices(), 1 => services(), 1 => nodes()],
        1..40,
    )
}

/// What can be seen of a state, but for its generation.
fn visible(world: &mut World) -> String {
    let state = world.model.state();
    let snapshot = &state.snapshot;
    format!(
        "{:#?}\n{:#?}\n{:#?}",
        snapshot.workloads, snapshot.services, state.wanted
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn the_way_to_a_state_does_not_matter(steps in steps(), look_at in any::<u64>()) {
        let mut followed = World::new();
        let mut last: BTreeMap<(&str, String), Value> = BTreeMap::new();
        for (index, step) in steps.iter().enumerate() {
            match &step.object {
                Some(object) => {
                    last.insert((step.plural, step.key.clone()), object.clone());
                    followed.put(step.plural, object.clone());
                }
                None => {
                    last.remove(&(step.plural, step.key.clone()));
                    followed.delete(step.plural, &step.key);
                }
            }
            // States in between must not be needed, nor do harm.
            if look_at >> (index % 64) & 1 == 1 {
                followed.model.state();
            }
        }
        let mut told = World::new();
        for plural in ["pods", SLICES, "services", "nodes"] {
            let of_kind = last.iter().filter(|((of, _), _)| *of == plural);
            let objects: Vec<Value> = of_kind.map(|(_, object)| object.clone()).collect();
            told.list(plural, &objects);
        }
        prop_assert_eq!(visible(&mut followed), visible(&mut told));
    }
}

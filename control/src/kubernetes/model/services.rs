//! Services and their endpoints.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;

use adit_flow::WorkloadName;

use super::pods::{Pods, Whose};
use super::replace;
use crate::kubernetes::object::{Backend, Key, Service as Object, ServicePort as Port, Slice};
use crate::snapshot::{Endpoint, Service, ServicePort, TargetPort};

/// The services and the slices of their endpoints.
pub(super) struct Services {
    own_node: Box<str>,
    objects: BTreeMap<Key, Object>,
    slices: HashMap<Key, Slice>,
    /// The slices of each service, whether the service is known or not.
    of_service: BTreeMap<Key, BTreeSet<Key>>,
    /// Services with endpoints that don't say which pod they are: any pod may turn out to be one.
    loose: BTreeSet<Key>,
    built: BTreeMap<Key, Arc<Service>>,
    /// What is to be built anew.
    stale: BTreeSet<Key>,
}

impl Services {
    pub(super) fn new(node: &str) -> Self {
        Self {
            own_node: node.into(),
            objects: BTreeMap::new(),
            slices: HashMap::new(),
            of_service: BTreeMap::new(),
            loose: BTreeSet::new(),
            built: BTreeMap::new(),
            stale: BTreeSet::new(),
        }
    }

    pub(super) fn keys(&self) -> BTreeSet<Key> {
        self.objects.keys().cloned().collect()
    }

    pub(super) fn slice_keys(&self) -> BTreeSet<Key> {
        self.slices.keys().cloned().collect()
    }

    pub(super) fn put(&mut self, key: Key, object: Option<Object>) -> bool {
        let changed = replace(&mut self.objects, key.clone(), object);
        if changed {
            self.stale.insert(key);
        }
        changed
    }

    pub(super) fn put_slice(&mut self, key: Key, slice: Option<Slice>) -> bool {
        if self.slices.get(&key) == slice.as_ref() {
            return false;
        }
        if let Some(before) = self.slices.remove(&key) {
            if let Some(slices) = self.of_service.get_mut(&before.service) {
                slices.remove(&key);
                if slices.is_empty() {
                    self.of_service.remove(&before.service);
                }
            }
            self.stale.insert(before.service);
        }
        if let Some(slice) = slice {
            let of_service = self.of_service.entry(slice.service.clone()).or_default();
            of_service.insert(key.clone());
            self.stale.insert(slice.service.clone());
            self.slices.insert(key, slice);
        }
        true
    }

    /// A pod came, went, or has other addresses.
    pub(super) fn pod_moved(&mut self, pod: &WorkloadName) {
        let first = Key::new(&pod.namespace, "");
        let here = self.of_service.range(first..);
        let here = here.take_while(|(service, _)| service.namespace == pod.namespace);
        let names_it = |key: &Key| {
            let slice = self.slices.get(key);
            slice.is_some_and(|slice| {
                slice
                    .backends
                    .iter()
                    .any(|backend| backend.pod.as_ref() == Some(pod))
            })
        };
        for (service, slices) in here {
            if slices.iter().any(names_it) {
                self.stale.insert(service.clone());
            }
        }
        self.stale.extend(self.loose.iter().cloned());
    }

    /// Builds anew what something changed for.
    pub(super) fn refresh(&mut self, pods: &Pods) {
        for key in std::mem::take(&mut self.stale) {
            let backends: Vec<(&Slice, &Backend)> = self.backends(&key).collect();
            let is_loose = backends.iter().any(|(_, backend)| {
                // One of another namespace is as good as unnamed: it isn't looked for there.
                backend
                    .pod
                    .as_ref()
                    .is_none_or(|pod| pod.namespace != key.namespace)
            });
            let service = self
                .objects
                .get(&key)
                .map(|object| Arc::new(self.build(&key, object, &backends, pods)));
            match is_loose {
                true => self.loose.insert(key.clone()),
                false => self.loose.remove(&key),
            };
            replace(&mut self.built, key, service);
        }
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.built.values()
    }

    fn backends(&self, service: &Key) -> impl Iterator<Item = (&Slice, &Backend)> {
        let slices = self.of_service.get(service).into_iter().flatten();
        slices
            .filter_map(|key| self.slices.get(key))
            .flat_map(|slice| slice.backends.iter().map(move |backend| (slice, backend)))
    }

    fn build(&self, key: &Key, object: &Object, backends: &[(&Slice, &Backend)], pods: &Pods) -> Service {
        let is_near = |backend: &Backend| !object.local_only || backend.node.as_ref() == Some(&self.own_node);
        let any_ready = backends
            .iter()
            .any(|(_, backend)| backend.ready && is_near(backend));
        let known: Vec<Known<'_>> = backends
            .iter()
            .filter(|(_, backend)| is_near(backend))
            .map(|(slice, backend)| Known {
                slice,
                backend,
                whose: pods.whose(backend.address, backend.pod.as_ref()),
                // As kube-proxy does: who is on its way out serves when nobody else is left (KEP 1669).
                ready: backend.ready || (!any_ready && backend.last_resort),
            })
            .collect();
        let mut endpoints: BTreeMap<&WorkloadName, bool> = BTreeMap::new();
        for known in &known {
            if let Whose::Workload(workload) = known.whose {
                *endpoints.entry(workload).or_default() |= known.ready;
            }
        }
        Service {
            name: key.clone(),
            addresses: object.addresses.clone(),
            ports: object
                .ports
                .iter()
                .map(|port| service_port(port, &known, endpoints.len()))
                .collect(),
            endpoints: endpoints
                .into_iter()
                .map(|(workload, ready)| Endpoint {
                    workload: workload.clone(),
                    ready,
                })
                .collect(),
        }
    }
}

/// An endpoint and whose it is.
struct Known<'a> {
    slice: &'a Slice,
    backend: &'a Backend,
    whose: Whose<'a>,
    ready: bool,
}

fn service_port(port: &Port, known: &[Known<'_>], workloads: usize) -> ServicePort {
    let mut numbers: BTreeMap<&WorkloadName, u16> = BTreeMap::new();
    let mut outside = Vec::new();
    for known in known {
        let of_slice = known.slice.ports.iter();
        let mut same = of_slice.filter(|of| of.name == port.name && of.protocol == port.protocol);
        let Some(number) = same.next().map(|of| of.number) else {
            continue;
        };
        match known.whose {
            Whose::Outside if known.ready => outside.push(SocketAddr::new(known.backend.address, number)),
            Whose::Outside | Whose::Unknown => {}
            Whose::Workload(workload) => {
                numbers.insert(workload, number);
            }
        }
    }
    outside.sort();
    let mut distinct = numbers.values();
    let first = distinct.next().copied();
    let is_uniform = numbers.len() == workloads && distinct.all(|number| Some(*number) == first);
    let target = match first {
        Some(number) if is_uniform => TargetPort::Number(number),
        _ => TargetPort::Listed(
            numbers
                .into_iter()
                .map(|(workload, number)| (workload.clone(), number))
                .collect(),
        ),
    };
    ServicePort {
        name: port.name.clone(),
        port: port.port,
        protocol: port.protocol,
        target,
        outside,
    }
}

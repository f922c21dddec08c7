//! Who of a namespace's pods is in the mesh, who belongs there, and why not: for people at a terminal.
//!
//! Everything that decides is here, a pure function of the API's JSON; [`enrolment`](super::enrolment) asks and writes.

mod wire;

use std::collections::BTreeSet;

use serde::Serialize;
use serde_json::{Value, json};

use super::membership;
use super::object::{
    HBONE_PORT_ANNOTATION, HBONE_PORT_ORIGINAL, Labels, REDIRECTION_ANNOTATION, REDIRECTION_ENABLED,
    SIDECAR_ANNOTATION,
};
use crate::names::DATAPLANE_MODE;
pub(super) use wire::{Item, List};

/// The pods of a namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Roster {
    /// The namespace.
    pub namespace: String,
    /// Whether the namespace's own label puts its pods into the mesh.
    pub in_mesh: bool,
    /// In order of name: all that the API has, ended ones too.
    pub pods: Vec<Standing>,
}

/// One pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Standing {
    /// Its name.
    pub pod: String,
    /// Where it runs; `None` before it was given a node.
    pub node: Option<String>,
    /// Why it isn't for the mesh; `None` if it is.
    pub outside: Option<Outside>,
    /// Set while it takes HBONE, by its own account.
    pub captured: Option<Captured>,
    /// Whether a ready agent is on its node.
    pub has_agent: bool,
}

/// Why a pod doesn't belong in the mesh. What can't be changed while it runs comes before what a label says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outside {
    /// It has ended, or has no address yet.
    NotRunning,
    /// It's being deleted.
    Leaving,
    /// Its addresses are its node's.
    HostNetwork,
    /// It has a proxy of its own (Istio's sidecar).
    Sidecar,
    /// Its own label says `none`.
    OptedOut,
    /// No label puts it in.
    NotAsked,
}

/// What a captured pod says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Captured {
    /// When the API server took the word, in RFC 3339; `None` if it keeps no record of who wrote what.
    pub since: Option<String>,
    /// Where other nodes reach it.
    pub wire_port: WirePort,
}

/// At which port other nodes' agents reach a captured pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum WirePort {
    /// 15008, as Istio's.
    #[serde(rename = "15008")]
    Hbone,
    /// The port that a flow is for.
    #[serde(rename = "original")]
    Original,
}

impl Roster {
    /// The roster of a namespace, from its labels, its pods and the pods of agents.
    pub(super) fn new(name: &str, labels: &Labels, pods: Vec<Item>, agents: &[Item]) -> Self {
        let served: BTreeSet<&str> = agents
            .iter()
            .filter(|agent| agent.is_ready() && !agent.metadata.is_leaving())
            .filter_map(|agent| agent.spec.node_name.as_deref())
            .collect();
        let mut pods: Vec<_> = pods
            .into_iter()
            .map(|pod| Standing::of(pod, labels, &served))
            .collect();
        pods.sort_by(|a, b| a.pod.cmp(&b.pod));
        Self {
            namespace: name.to_owned(),
            in_mesh: membership::by_labels(&Labels::new(), Some(labels)),
            pods,
        }
    }

    /// Pods that aren't yet what they should be: in the mesh and not captured, or the other way round.
    pub fn unsettled(&self) -> impl Iterator<Item = &Standing> {
        self.pods.iter().filter(|pod| !pod.is_settled())
    }
}

impl Standing {
    fn of(pod: Item, namespace: &Labels, served: &BTreeSet<&str>) -> Self {
        let node = pod.spec.node_name.as_deref();
        Self {
            outside: outside(&pod, namespace),
            captured: captured(&pod),
            has_agent: node.is_some_and(|node| served.contains(node)),
            node: pod.spec.node_name,
            pod: pod.metadata.name,
        }
    }

    /// Whether it's captured if it belongs in the mesh, and isn't if it doesn't. Of one that doesn't run, or not for long,
    /// nothing is expected.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        match self.outside {
            None => self.captured.is_some(),
            Some(Outside::NotRunning | Outside::Leaving) => true,
            Some(_) => self.captured.is_none(),
        }
    }
}

/// What makes a namespace's label say that its pods are in the mesh, or nothing: a JSON merge patch (RFC 7396) of this label
/// alone, so that it conflicts with nobody.
pub(super) fn label_patch(in_mesh: bool) -> Value {
    let mode = in_mesh.then_some("ambient");
    json!({"metadata": {"labels": {DATAPLANE_MODE: mode}}})
}

fn outside(pod: &Item, namespace: &Labels) -> Option<Outside> {
    let labels = &pod.metadata.labels;
    let opted_out = labels.get(DATAPLANE_MODE).is_some_and(|mode| mode == "none");
    [
        (!pod.status.has_network(), Outside::NotRunning),
        (pod.metadata.is_leaving(), Outside::Leaving),
        (pod.spec.host_network, Outside::HostNetwork),
        (
            pod.metadata.annotations.contains_key(SIDECAR_ANNOTATION),
            Outside::Sidecar,
        ),
        (opted_out, Outside::OptedOut),
        (!membership::by_labels(labels, Some(namespace)), Outside::NotAsked),
    ]
    .into_iter()
    .find_map(|(holds, why)| holds.then_some(why))
}

fn captured(pod: &Item) -> Option<Captured> {
    let annotation = |key: &str| pod.metadata.annotations.get(key).map(String::as_str);
    let is_captured = annotation(REDIRECTION_ANNOTATION) == Some(REDIRECTION_ENABLED);
    is_captured.then(|| Captured {
        since: pod.metadata.annotated_at(REDIRECTION_ANNOTATION),
        wire_port: match annotation(HBONE_PORT_ANNOTATION) {
            Some(HBONE_PORT_ORIGINAL) => WirePort::Original,
            _ => WirePort::Hbone,
        },
    })
}

#[cfg(test)]
mod tests;

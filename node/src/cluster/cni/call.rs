//! One call of the plugin: its environment and its configuration, read but for what nobody asks for.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use serde_json::Value;

use super::CniError;
use crate::cluster::protocol::{MAX_UID, PodRef, is_uid};

/// The variables that the runtime sets.
#[derive(Debug, Clone, Default)]
pub(super) struct Environment {
    pub(super) command: String,
    pub(super) container: String,
    pub(super) namespace: String,
    pub(super) interface: String,
    pub(super) arguments: String,
}

/// A call, with the fields of our own configuration.
#[derive(Debug)]
pub(super) struct Call {
    environment: Environment,
    configuration: Value,
    pub(super) state: PathBuf,
    pub(super) exempt: Vec<String>,
}

/// Which pod the runtime means; its addresses are in the previous result, if there is one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) uid: String,
    pub(super) namespace: String,
    pub(super) name: String,
}

impl Environment {
    pub(super) fn from_process() -> Self {
        // What is no UTF-8 is no name of Kubernetes', and missing.
        let read = |name| std::env::var(name).unwrap_or_default();
        Self {
            command: read("CNI_COMMAND"),
            container: read("CNI_CONTAINERID"),
            namespace: read("CNI_NETNS"),
            interface: read("CNI_IFNAME"),
            arguments: read("CNI_ARGS"),
        }
    }
}

impl Call {
    pub(super) fn parse(environment: &Environment, text: &[u8]) -> Result<Self, CniError> {
        let configuration = serde_json::from_slice::<Value>(text)
            .map_err(|error| CniError::decoding(format!("network configuration: {error}")))?;
        let state = configuration["state"].as_str().ok_or_else(|| {
            CniError::configuration("`state` is missing, the folder of the node helper".into())
        })?;
        let exempt = configuration["exemptNamespaces"].as_array().into_iter().flatten();
        Ok(Self {
            environment: environment.clone(),
            state: state.into(),
            exempt: exempt.filter_map(Value::as_str).map(str::to_owned).collect(),
            configuration,
        })
    }

    pub(super) fn container(&self) -> Result<&str, CniError> {
        required("CNI_CONTAINERID", &self.environment.container)
    }

    pub(super) fn network_namespace(&self) -> Result<&str, CniError> {
        required("CNI_NETNS", &self.environment.namespace)
    }

    pub(super) fn interface(&self) -> Result<&str, CniError> {
        required("CNI_IFNAME", &self.environment.interface)
    }

    /// The result of the plugin before us in the chain.
    pub(super) fn previous_result(&self) -> Result<&Value, CniError> {
        match &self.configuration["prevResult"] {
            Value::Null => Err(CniError::configuration(
                "`prevResult` is missing; the plugin must be chained after the one that makes the interface"
                    .into(),
            )),
            result => Ok(result),
        }
    }

    /// Which pod it is, or `None` when the container isn't Kubernetes'. The runtime gives it in any order.
    pub(super) fn pod(&self) -> Result<Option<Identity>, CniError> {
        let pairs = self.environment.arguments.split(';');
        let arguments = pairs
            .filter_map(|pair| pair.split_once('='))
            .collect::<BTreeMap<_, _>>();
        let find = |name: &str| arguments.get(name).filter(|value| !value.is_empty());
        let [uid, namespace, name] = ["K8S_POD_UID", "K8S_POD_NAMESPACE", "K8S_POD_NAME"].map(find);
        match (uid, namespace, name) {
            // It becomes the name of a file.
            (Some(uid), _, _) if !is_uid(uid) => Err(CniError::environment(format!(
                "CNI_ARGS has K8S_POD_UID={uid:?}, expected 1 to {MAX_UID} letters, digits, '-' and '_'"
            ))),
            (Some(uid), Some(namespace), Some(name)) => Ok(Some(Identity {
                uid: (*uid).to_owned(),
                namespace: (*namespace).to_owned(),
                name: (*name).to_owned(),
            })),
            (None, None, None) => Ok(None),
            _ => Err(CniError::environment(
                "CNI_ARGS has some of K8S_POD_UID, K8S_POD_NAMESPACE and K8S_POD_NAME, expected all or none"
                    .into(),
            )),
        }
    }

    /// The pod with the addresses that the previous plugin gave it.
    pub(super) fn pod_with_addresses(&self, pod: Identity) -> Result<PodRef, CniError> {
        let listed = self.previous_result()?["ips"].as_array().into_iter().flatten();
        let addresses = listed.map(|ip| {
            let text = ip["address"].as_str().unwrap_or_default();
            let address = text.split('/').next().unwrap_or_default();
            address.parse::<IpAddr>().map_err(|error| {
                CniError::configuration(format!("`prevResult.ips` has the address {text:?}: {error}"))
            })
        });
        let addresses = addresses.collect::<Result<Vec<_>, _>>()?;
        if addresses.is_empty() {
            return Err(CniError::configuration("`prevResult.ips` has no address".into()));
        }
        Ok(PodRef {
            uid: pod.uid,
            namespace: pod.namespace,
            name: pod.name,
            addresses,
        })
    }

    /// The sandboxes that the runtime still knows, for GC.
    pub(super) fn valid_attachments(&self) -> Result<Vec<String>, CniError> {
        let Some(listed) = self.configuration["cni.dev/valid-attachments"].as_array() else {
            // Taken for an empty list it would take every pod out of the mesh.
            return Err(CniError::configuration(
                "`cni.dev/valid-attachments` is missing or no list".into(),
            ));
        };
        let containers = listed.iter().map(|attachment| {
            let container = attachment["containerID"].as_str();
            container.map(str::to_owned).ok_or_else(|| {
                CniError::configuration("`cni.dev/valid-attachments` has an entry without containerID".into())
            })
        });
        let mut containers = containers.collect::<Result<Vec<_>, _>>()?;
        // One for each interface, and we know sandboxes.
        containers.sort();
        containers.dedup();
        Ok(containers)
    }
}

fn required<'a>(name: &str, value: &'a str) -> Result<&'a str, CniError> {
    match value {
        "" => Err(CniError::environment(format!("{name} is missing"))),
        value => Ok(value),
    }
}

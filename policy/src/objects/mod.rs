//! Objects as people write them, read strictly.
//!
//! A text of YAML or JSON documents becomes [`Object`]s and [`Diagnostic`]s. A policy with an error in it is still an
//! object: it denies for the pods that it selects, or for all in its scope where even the selector can't be read. A tier
//! with an error isn't one, so its policies deny. What policies only refer to can't be wrong in a safe way: such an
//! error makes the whole reading incomplete.

mod calico;
mod calico_checks;
mod cluster;
mod decode;
mod header;
mod inventory;
mod istio;
mod kubernetes;
mod peer_authentication;
mod unknown;
mod values;

use std::sync::Arc;

use adit_flow::WorkloadName;

pub use istio::DEFAULT_ROOT_NAMESPACE;

use crate::codes;
use crate::diagnostic::{Diagnostic, Severity};
use crate::document::{self, Node, Value};
use crate::inventory::{LabelMap, NetworkSet, Workload};
use crate::model::{Action, Peer, Policy, PolicyKey, PortMatch, Rule, Tier};
use crate::selector::EndpointSelector;
use decode::Decoder;
use header::Header;

/// An object that has a bearing on policy.
#[derive(Clone, Debug, PartialEq)]
pub enum Object {
    /// A namespace with its labels.
    Namespace {
        /// Its name.
        name: Arc<str>,
        /// Its labels, without the one that every namespace carries unwritten.
        labels: LabelMap,
    },
    /// A policy of any kind.
    Policy(Arc<Policy>),
    /// A service account with its labels.
    ServiceAccount {
        /// Its namespace.
        namespace: Arc<str>,
        /// Its name.
        name: Arc<str>,
        /// Its labels.
        labels: LabelMap,
    },
    /// A network set, global or not.
    Set(NetworkSet),
    /// A tier.
    Tier(Tier),
    /// A pod.
    Workload(Workload),
}

/// What names an object among all objects.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ObjectKey {
    /// See [`Object::Namespace`].
    Namespace(Arc<str>),
    /// See [`Object::Policy`].
    Policy(PolicyKey),
    /// See [`Object::ServiceAccount`]: namespace and name.
    ServiceAccount(Arc<str>, Arc<str>),
    /// See [`Object::Set`]: namespace, if it has one, and name.
    Set(Option<Arc<str>>, Arc<str>),
    /// See [`Object::Tier`].
    Tier(Arc<str>),
    /// See [`Object::Workload`].
    Workload(WorkloadName),
}

impl Object {
    /// Its key.
    pub fn key(&self) -> ObjectKey {
        match self {
            Self::Namespace { name, .. } => ObjectKey::Namespace(Arc::clone(name)),
            Self::Policy(policy) => ObjectKey::Policy(policy.key.clone()),
            Self::ServiceAccount { namespace, name, .. } => {
                ObjectKey::ServiceAccount(Arc::clone(namespace), Arc::clone(name))
            }
            Self::Set(set) => ObjectKey::Set(set.namespace.clone(), Arc::clone(&set.name)),
            Self::Tier(tier) => ObjectKey::Tier(Arc::clone(&tier.name)),
            Self::Workload(workload) => ObjectKey::Workload(workload.name.clone()),
        }
    }
}

/// What was read from texts.
#[derive(Debug, Default)]
pub struct Reading {
    /// The objects, in the order written.
    pub objects: Vec<Object>,
    /// What was found wrong.
    pub diagnostics: Vec<Diagnostic>,
    /// Whether something couldn't be read that policies may hang on: a whole text, a document of no kind, a network
    /// set, a pod, a namespace. What is denied by it is unknown, so the last good reading should stay.
    pub incomplete: bool,
}

/// Reads texts into objects.
#[derive(Clone, Debug)]
pub struct Reader {
    root_namespace: String,
}

impl Default for Reader {
    fn default() -> Self {
        Self::new(DEFAULT_ROOT_NAMESPACE)
    }
}

impl Reader {
    /// A reader for a mesh whose root namespace is `root_namespace`.
    pub fn new(root_namespace: impl Into<String>) -> Self {
        Self {
            root_namespace: root_namespace.into(),
        }
    }

    /// Reads one text of YAML or JSON documents. `file` names it in diagnostics.
    pub fn read(&self, file: &str, text: &str) -> Reading {
        let mut reading = Reading::default();
        self.read_into(file, text, &mut reading);
        reading
    }

    /// Reads one more text into `reading`.
    pub fn read_into(&self, file: &str, text: &str, reading: &mut Reading) {
        match document::read(text) {
            Ok(documents) => {
                let file = file.into();
                for document in &documents {
                    self.read_node(&file, document, None, reading);
                }
            }
            Err(unreadable) => {
                reading.incomplete = true;
                reading.diagnostics.push(Diagnostic {
                    code: codes::UNREADABLE,
                    severity: Severity::Error,
                    file: file.to_owned(),
                    at: unreadable.at,
                    object: String::new(),
                    path: String::new(),
                    message: unreadable.reason,
                });
            }
        }
    }

    /// Reads one object that was parsed already, such as one from the API server.
    pub fn read_value(&self, file: &str, value: serde_json::Value, reading: &mut Reading) {
        self.read_node(&file.into(), &Node::from(value), None, reading);
    }

    /// Reads one document that was parsed already.
    pub fn read_document(&self, file: &str, document: &Node, reading: &mut Reading) {
        self.read_node(&file.into(), document, None, reading);
    }

    fn read_node(&self, file: &Arc<str>, node: &Node, of_list: Option<(&str, &str)>, reading: &mut Reading) {
        let word = |name: &str| node.get(name).and_then(Node::as_text);
        let version = word("apiVersion")
            .or_else(|| of_list.map(|(version, _)| version))
            .unwrap_or_default();
        let kind = word("kind")
            .or_else(|| of_list.map(|(_, kind)| kind))
            .unwrap_or_default();
        let name = |node: Option<&Node>, field: &str| {
            node.and_then(|node| node.get(field))
                .and_then(Node::as_text)
                .unwrap_or_default()
                .to_owned()
        };
        let metadata = node.get("metadata");
        let title = match (name(metadata, "namespace"), name(metadata, "name")) {
            (namespace, name) if namespace.is_empty() => format!("{kind} {name}"),
            (namespace, name) => format!("{kind} {namespace}/{name}"),
        };
        let mut decoder = Decoder::new(
            Arc::clone(file),
            title.trim().to_owned(),
            &mut reading.diagnostics,
        );
        if let (Some(item_kind), Some(items)) = (kind.strip_suffix("List"), node.get("items")) {
            // Items of a plain List name their own kind; those of a typed one may leave it to the list.
            let of_list = (!item_kind.is_empty()).then_some((version, item_kind));
            match &items.value {
                Value::List(items) => {
                    for item in items {
                        self.read_node(file, item, of_list, reading);
                    }
                }
                Value::Null => {}
                other => {
                    let message = format!("expected a list, got {}", other.describe());
                    decoder.within("items", |decoder| {
                        decoder.fail(codes::WRONG_TYPE, items.at, message)
                    });
                    reading.incomplete = true;
                }
            }
            return;
        }
        let known = Known::of(version, kind);
        let ordinal = reading.objects.len();
        let object = match known {
            Some(known) => self.read_object(&mut decoder, file, node, known, ordinal),
            None => unknown::read(&mut decoder, file, node, (version, kind), ordinal),
        };
        // Errors of policies deny, and a tier that isn't there makes its policies deny. The rest can't be judged without.
        let denies = matches!(object, Some(Object::Policy(_))) || matches!(known, Some(Known::Tier));
        reading.incomplete |= decoder.errors() > 0 && !denies;
        reading.objects.extend(object);
    }

    fn read_object(
        &self,
        decoder: &mut Decoder<'_>,
        file: &Arc<str>,
        node: &Node,
        known: Known,
        ordinal: usize,
    ) -> Option<Object> {
        let header = Header::read(decoder, node, file, ordinal);
        let root = &self.root_namespace;
        let spec = known.spec(decoder, node);
        decoder.tell_nulls();
        let policy = |mut policy: Policy| {
            if header.is_lost {
                policy.subject = EndpointSelector::everything_in(None);
            }
            Some(Object::Policy(Arc::new(policy)))
        };
        let empty = Node {
            at: node.at,
            value: Value::Map(Vec::new()),
        };
        let required = spec.unwrap_or(&empty);
        let own = header.namespace_or_default();
        match known {
            Known::AuthorizationPolicy => policy(decoder.within("spec", |decoder| {
                istio::authorization_policy(decoder, &header, spec, root)
            })),
            Known::PeerAuthentication => policy(decoder.within("spec", |decoder| {
                peer_authentication::peer_authentication(decoder, &header, spec, root)
            })),
            Known::NetworkPolicy { staged } => policy(decoder.within("spec", |decoder| {
                kubernetes::network_policy(decoder, &header, required, staged)
            })),
            Known::ClusterNetworkPolicy => policy(decoder.within("spec", |decoder| {
                cluster::cluster_network_policy(decoder, &header, required)
            })),
            Known::CalicoNetworkPolicy { staged } => policy(decoder.within("spec", |decoder| {
                calico::policy(decoder, &header, required, Some(&own), staged)
            })),
            Known::GlobalNetworkPolicy { staged } => policy(decoder.within("spec", |decoder| {
                calico::policy(decoder, &header, required, None, staged)
            })),
            Known::Tier => decoder
                .within("spec", |decoder| calico::tier(decoder, &header, spec))
                .map(Object::Tier),
            Known::NetworkSet => Some(Object::Set(decoder.within("spec", |decoder| {
                inventory::network_set(decoder, &header, spec, Some(&own))
            }))),
            Known::GlobalNetworkSet => Some(Object::Set(decoder.within("spec", |decoder| {
                inventory::network_set(decoder, &header, spec, None)
            }))),
            Known::Namespace => Some(Object::Namespace {
                name: header.name,
                labels: header.labels,
            }),
            Known::Pod => inventory::pod(decoder, &header, node).map(Object::Workload),
            Known::ServiceAccount => Some(Object::ServiceAccount {
                namespace: own,
                name: header.name,
                labels: header.labels,
            }),
        }
    }
}

/// The kinds that have a bearing on policy.
#[derive(Clone, Copy)]
enum Known {
    AuthorizationPolicy,
    CalicoNetworkPolicy { staged: bool },
    ClusterNetworkPolicy,
    GlobalNetworkPolicy { staged: bool },
    GlobalNetworkSet,
    Namespace,
    NetworkPolicy { staged: bool },
    NetworkSet,
    PeerAuthentication,
    Pod,
    ServiceAccount,
    Tier,
}

impl Known {
    fn of(version: &str, kind: &str) -> Option<Self> {
        match version {
            "v1" => match kind {
                "Namespace" => Some(Self::Namespace),
                "Pod" => Some(Self::Pod),
                "ServiceAccount" => Some(Self::ServiceAccount),
                _ => None,
            },
            "networking.k8s.io/v1" => {
                (kind == "NetworkPolicy").then_some(Self::NetworkPolicy { staged: false })
            }
            "policy.networking.k8s.io/v1alpha2" => {
                (kind == "ClusterNetworkPolicy").then_some(Self::ClusterNetworkPolicy)
            }
            "projectcalico.org/v3" | "crd.projectcalico.org/v1" => match kind {
                "GlobalNetworkPolicy" => Some(Self::GlobalNetworkPolicy { staged: false }),
                "GlobalNetworkSet" => Some(Self::GlobalNetworkSet),
                "NetworkPolicy" => Some(Self::CalicoNetworkPolicy { staged: false }),
                "NetworkSet" => Some(Self::NetworkSet),
                "StagedGlobalNetworkPolicy" => Some(Self::GlobalNetworkPolicy { staged: true }),
                "StagedKubernetesNetworkPolicy" => Some(Self::NetworkPolicy { staged: true }),
                "StagedNetworkPolicy" => Some(Self::CalicoNetworkPolicy { staged: true }),
                "Tier" => Some(Self::Tier),
                _ => None,
            },
            "security.istio.io/v1" | "security.istio.io/v1beta1" => match kind {
                "AuthorizationPolicy" => Some(Self::AuthorizationPolicy),
                "PeerAuthentication" => Some(Self::PeerAuthentication),
                _ => None,
            },
            _ => None,
        }
    }

    /// The `spec`, after a look at the fields beside it: a policy is strict about those too.
    fn spec<'n>(self, decoder: &mut Decoder<'_>, node: &'n Node) -> Option<&'n Node> {
        if matches!(self, Self::Namespace | Self::Pod | Self::ServiceAccount) {
            return None;
        }
        let mut fields = decoder.fields(node)?;
        for name in ["apiVersion", "kind", "metadata", "status"] {
            fields.take(name);
        }
        let spec = fields.take("spec");
        decoder.finish(fields);
        let optional = matches!(
            self,
            Self::AuthorizationPolicy
                | Self::PeerAuthentication
                | Self::Tier
                | Self::NetworkSet
                | Self::GlobalNetworkSet
        );
        // Kubernetes takes a NetworkPolicy without a spec: it isolates all pods of its namespace.
        if spec.is_none() && !optional && !matches!(self, Self::NetworkPolicy { staged: false }) {
            decoder.fail(codes::MISSING_FIELD, node.at, "expected spec, got no such field");
        }
        spec
    }
}

/// What can't be judged may not allow, and may not keep a rule from denying. Whether passing on is more or less than what
/// follows nobody can tell, so a rule that passes denies.
fn restrict_unjudged(rule: &mut Rule<EndpointSelector>, unjudged: bool) {
    if !unjudged {
        return;
    }
    match rule.action {
        Action::Allow | Action::Log => rule.source.get_or_insert_default().peers = Some(Box::default()),
        Action::Deny => {}
        Action::Pass => rule.action = Action::Deny,
    }
}

/// A rule about peers at the far end and ports at the destination.
fn rule_between(
    action: Action,
    line: u32,
    incoming: bool,
    peers: Option<Box<[Peer<EndpointSelector>]>>,
    ports: Option<Box<[PortMatch]>>,
) -> Rule<EndpointSelector> {
    let (source, destination) = if incoming {
        (kubernetes::end(peers, None), kubernetes::end(None, ports))
    } else {
        (None, kubernetes::end(peers, ports))
    };
    Rule {
        action,
        protocol: None,
        not_protocol: None,
        version: None,
        icmp: None,
        not_icmp: None,
        source,
        destination,
        line,
    }
}

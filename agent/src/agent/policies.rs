//! Policy files and the mesh's inventory to the set that workers ask.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use adit_control::kubernetes::Account;
use adit_control::{PolicyDocument, Snapshot, Workload};
use adit_flow::WorkloadName;
use adit_policy::commands::lint::duplicates;
use adit_policy::diagnostic::{Diagnostic, Severity};
use adit_policy::inventory::{ContainerPort, LabelMap, Workload as Subject};
use adit_policy::objects::{Object, Reader, Reading};
use adit_policy::{Compiler, Options, PolicySet};

use crate::admin::PolicyText;

/// Owns the compiler and the policies that were read last.
pub(super) struct Policies {
    reader: Reader,
    compiler: Compiler,
    /// The latest, those that can't be read included.
    texts: Vec<Arc<Text>>,
    /// What they said, all of it, when every one could be read.
    objects: Vec<Object>,
}

/// A text and what it says. One that didn't change isn't read again, nor is what was found wrong with it told again.
struct Text {
    document: Arc<PolicyDocument>,
    reading: Reading,
}

/// Something in the policy files that can't be read and that policies lean on: what it would deny is unknown.
#[derive(Debug, thiserror::Error)]
#[error("policy files: {report}")]
pub(crate) struct Unreadable {
    report: String,
}

/// Whether the agent could take `files`, for those who must know before they send them.
///
/// # Errors
/// A file that can't be read at all.
pub(crate) fn check(files: &[PolicyText]) -> Result<(), Unreadable> {
    let reader = Reader::default();
    let documents = files.iter().map(PolicyText::to_document);
    let texts = documents.map(|document| Text::read(&reader, document).into());
    readable(&texts.collect::<Vec<_>>())
}

impl Text {
    fn read(reader: &Reader, document: Arc<PolicyDocument>) -> Self {
        let reading = reader.read(&document.path.display().to_string(), &document.text);
        Self { document, reading }
    }

    fn is_of(&self, document: &Arc<PolicyDocument>) -> bool {
        Arc::ptr_eq(&self.document, document) || self.document == *document
    }
}

fn readable(texts: &[Arc<Text>]) -> Result<(), Unreadable> {
    if !texts.iter().any(|text| text.reading.incomplete) {
        return Ok(());
    }
    let broken = texts.iter().filter(|text| text.reading.incomplete);
    let errors = broken.flat_map(|text| &text.reading.diagnostics);
    let errors = errors.filter(|found| found.is_error());
    let report: Vec<_> = errors.map(ToString::to_string).collect();
    Err(Unreadable {
        report: report.join("; "),
    })
}

fn tell(diagnostic: &Diagnostic) {
    match diagnostic.severity {
        Severity::Error => tracing::error!("{diagnostic}"),
        _ => tracing::warn!("{diagnostic}"),
    }
}

impl Policies {
    /// No policy yet.
    pub(super) fn new() -> Self {
        Self {
            reader: Reader::default(),
            compiler: Compiler::new(Options::default()),
            texts: Vec::new(),
            objects: Vec::new(),
        }
    }

    /// Takes the policy files as they are now. A policy that can't be compiled denies what it selects, and the log
    /// says so; a file that isn't YAML, or a broken network set, changes nothing.
    ///
    /// # Errors
    /// Such a file or object, as long as it's there. The policies read before stay in force.
    pub(super) fn read(&mut self, files: &[Arc<PolicyDocument>]) -> Result<(), Unreadable> {
        let same = files.len() == self.texts.len()
            && files.iter().zip(&self.texts).all(|(file, text)| text.is_of(file));
        if same {
            return readable(&self.texts);
        }
        let known: HashMap<_, _> = self
            .texts
            .iter()
            .map(|text| (&text.document.path, text))
            .collect();
        let read = |file: &Arc<PolicyDocument>| match known.get(&file.path) {
            Some(text) if text.is_of(file) => Arc::clone(text),
            _ => {
                let text = Text::read(&self.reader, Arc::clone(file));
                text.reading.diagnostics.iter().for_each(tell);
                Arc::new(text)
            }
        };
        self.texts = files.iter().map(read).collect::<Vec<_>>();
        readable(&self.texts)?;
        let objects = self.texts.iter().flat_map(|text| &text.reading.objects);
        self.objects = objects.cloned().collect();
        duplicates(&self.objects).iter().for_each(tell);
        Ok(())
    }

    /// The set for the mesh as it is now. What didn't change costs a comparison.
    pub(super) fn compile(&mut self, snapshot: &Snapshot, accounts: &[Arc<Account>]) -> Arc<PolicySet> {
        let mut objects = self.objects.clone();
        // The mesh's own objects come last: of two with one key the last counts.
        objects.extend(inventory(snapshot));
        objects.extend(accounts.iter().map(|account| Object::ServiceAccount {
            namespace: account.namespace.as_str().into(),
            name: account.name.as_str().into(),
            labels: account.labels.clone(),
        }));
        self.compiler.sync(objects);
        self.compiler.publish()
    }
}

/// The namespaces and workloads that policies are about, and the mesh's DNS responder as the pod that policies
/// written for a cluster expect: what allows or denies `k8s-app: kube-dns` there does it here.
fn inventory(snapshot: &Snapshot) -> impl Iterator<Item = Object> {
    let namespace = |(name, labels): (&String, &LabelMap)| Object::Namespace {
        name: name.as_str().into(),
        labels: labels.clone(),
    };
    let cluster_dns = || Subject {
        name: WorkloadName::new("kube-system", "kube-dns"),
        labels: BTreeMap::from([("k8s-app".to_owned(), "kube-dns".to_owned())]),
        account: "default".into(),
        addresses: snapshot.dns.clone(),
        ports: Vec::new(),
        node_addresses: Vec::new(),
    };
    let system = || Object::Namespace {
        name: "kube-system".into(),
        labels: LabelMap::new(),
    };
    // A cluster has its own.
    let responds = !snapshot.dns.is_empty();
    let responder = responds.then(|| [system(), Object::Workload(cluster_dns())]);
    responder
        .into_iter()
        .flatten()
        .chain(snapshot.namespaces.iter().map(namespace))
        .chain(
            snapshot
                .workloads
                .values()
                .map(|workload| Object::Workload(subject(workload))),
        )
}

fn subject(workload: &Workload) -> Subject {
    let ports = workload.ports.iter().map(|port| ContainerPort {
        name: port.name.as_deref().map(Into::into),
        number: port.number,
        protocol: port.protocol,
    });
    Subject {
        name: workload.name.clone(),
        labels: (*workload.labels).clone(),
        account: workload.identity.service_account().into(),
        addresses: workload.addresses.clone(),
        ports: ports.collect(),
        node_addresses: workload.node_addresses.to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use adit_flow::{FourTuple, Protocol};
    use adit_policy::{Flow, Trace};

    use super::*;

    const MESH: &str = "
apiVersion: adit.dev/v1alpha1
kind: Mesh
name: demo
namespaces: [{name: shop}]
workloads:
- {name: web, namespace: shop, labels: {app: web}, command: [sleep, '9']}
- {name: api, namespace: shop, labels: {app: api}, command: [sleep, '9']}
";

    const DENY_ALL_BUT_DNS: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: dns-only, namespace: shop}
spec:
  podSelector: {matchLabels: {app: web}}
  policyTypes: [Egress]
  egress:
  - to:
    - namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: kube-system}}
      podSelector: {matchLabels: {k8s-app: kube-dns}}
    ports: [{protocol: UDP, port: 53}]
";

    fn snapshot() -> Snapshot {
        let loaded =
            adit_control::parse("demo.yaml".as_ref(), MESH).unwrap_or_else(|report| panic!("{report:?}"));
        let view = adit_control::View {
            node: None,
            ready: &|_| true,
            joined: &[],
            generation: 1,
        };
        adit_control::build(&loaded.mesh, view)
    }

    fn file(text: &str) -> Arc<PolicyDocument> {
        Arc::new(PolicyDocument {
            path: "policy.yaml".into(),
            text: text.to_owned(),
        })
    }

    fn egress(set: &PolicySet, snapshot: &Snapshot, to: std::net::SocketAddr, protocol: Protocol) -> bool {
        let web = &snapshot.workloads[&WorkloadName::new("shop", "web")];
        let from = std::net::SocketAddr::new(web.address_like(to.ip()).unwrap(), 40_000);
        set.egress(&Flow::plain(FourTuple::new(from, to), protocol), Trace::Off)
            .is_allowed()
    }

    #[test]
    fn a_cluster_policy_for_dns_means_the_responder() {
        let snapshot = snapshot();
        let mut policies = Policies::new();
        policies.read(&[file(DENY_ALL_BUT_DNS)]).unwrap();
        let set = policies.compile(&snapshot, &[]);
        let dns = std::net::SocketAddr::new(snapshot.dns[0], 53);
        let api = snapshot.workloads[&WorkloadName::new("shop", "api")].addresses[0];
        assert!(egress(&set, &snapshot, dns, Protocol::Udp));
        assert!(!egress(&set, &snapshot, dns, Protocol::Tcp));
        assert!(!egress(&set, &snapshot, (api, 80).into(), Protocol::Tcp));
    }

    #[test]
    fn a_text_that_did_not_change_is_not_read_again() {
        let mut policies = Policies::new();
        let other = |text: &str| {
            Arc::new(PolicyDocument {
                path: "other.yaml".into(),
                text: text.to_owned(),
            })
        };
        policies.read(&[file(DENY_ALL_BUT_DNS), other("")]).unwrap();
        let before = policies.texts.clone();
        policies
            .read(&[other("# nothing"), file(DENY_ALL_BUT_DNS)])
            .unwrap();
        assert!(Arc::ptr_eq(&policies.texts[1], &before[0]));
        assert!(!Arc::ptr_eq(&policies.texts[0], &before[1]));
        assert_eq!(policies.objects.len(), 1);
    }

    #[test]
    fn a_file_that_is_no_yaml_changes_nothing() {
        let snapshot = snapshot();
        let mut policies = Policies::new();
        policies.read(&[file(DENY_ALL_BUT_DNS)]).unwrap();
        assert!(policies.read(&[file("kind: [")]).is_err());
        let set = policies.compile(&snapshot, &[]);
        let api = snapshot.workloads[&WorkloadName::new("shop", "api")].addresses[0];
        assert!(
            !egress(&set, &snapshot, (api, 80).into(), Protocol::Tcp),
            "the policy is in force"
        );
    }

    #[test]
    fn a_file_that_is_no_yaml_is_read_once_and_refused_until_it_changes() {
        let mut policies = Policies::new();
        let other = Arc::new(PolicyDocument {
            path: "other.yaml".into(),
            text: String::new(),
        });
        let broken = || file("kind: [");
        let first = policies.read(&[broken()]).unwrap_err().to_string();
        let read = Arc::clone(&policies.texts[0]);
        // As it is, and beside another that is new.
        for files in [vec![broken()], vec![broken(), other]] {
            assert_eq!(policies.read(&files).unwrap_err().to_string(), first);
            assert!(
                Arc::ptr_eq(&policies.texts[0], &read),
                "what is wrong was told again"
            );
        }
        policies.read(&[file(DENY_ALL_BUT_DNS)]).unwrap();
        assert_eq!(policies.objects.len(), 1);
    }
}

use std::sync::Arc;

use super::expression::{Expression, Labels};
use crate::inventory::{Account, Endpoint, Namespace};

/// Which endpoints (pods, and for Calico network sets) a policy or one side of a rule is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct EndpointSelector {
    /// Whose rules of seeing labels apply.
    pub dialect: Dialect,
    /// The namespaces it looks in.
    pub namespace: NamespaceScope,
    /// What the endpoint's labels must satisfy; `None` asks nothing.
    pub labels: Option<Expression>,
    /// What the same endpoint's labels must not satisfy.
    pub not_labels: Option<Expression>,
    /// What the endpoint's service account must be.
    pub accounts: Option<AccountSelector>,
}

/// Which labels a selector sees and which endpoints it may match.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Dialect {
    /// Pods and network sets; labels that Calico derives from namespace and service account are visible.
    Calico,
    /// Pods only, by their own labels.
    Kubernetes,
}

/// The namespaces that a selector looks in.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum NamespaceScope {
    /// Everywhere, and endpoints of no namespace.
    Anywhere,
    /// Namespaces with these labels. For an endpoint of no namespace it is evaluated on no labels at all, which
    /// `env != 'prod'` matches: Calico does so.
    Matching(Expression),
    /// This namespace.
    Named(Arc<str>),
}

/// Calico's `serviceAccounts`: names and selector must both hold.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct AccountSelector {
    /// One of these names (sorted); empty asks nothing.
    pub names: Box<[Arc<str>]>,
    /// What the account's labels must satisfy.
    pub labels: Option<Expression>,
}

impl EndpointSelector {
    /// Pods of one namespace by their own labels.
    pub fn pods_in(namespace: &Arc<str>, labels: Expression) -> Self {
        Self {
            dialect: Dialect::Kubernetes,
            namespace: NamespaceScope::Named(Arc::clone(namespace)),
            labels: Some(labels),
            not_labels: None,
            accounts: None,
        }
    }

    /// Every endpoint of `namespace`, or everywhere without one: the scope of a policy whose own selector is unusable.
    pub fn everything_in(namespace: Option<&Arc<str>>) -> Self {
        Self {
            dialect: Dialect::Kubernetes,
            namespace: namespace.map_or(NamespaceScope::Anywhere, |name| {
                NamespaceScope::Named(Arc::clone(name))
            }),
            labels: None,
            not_labels: None,
            accounts: None,
        }
    }

    /// Whether `endpoint` is selected.
    pub fn matches(&self, endpoint: &Endpoint) -> bool {
        if self.dialect == Dialect::Kubernetes && !endpoint.is_pod() {
            return false;
        }
        let labels = EndpointLabels {
            endpoint,
            dialect: self.dialect,
        };
        self.namespace
            .matches(endpoint.namespace.as_deref(), self.dialect)
            && self
                .labels
                .as_ref()
                .is_none_or(|expression| expression.matches(&labels))
            && self
                .not_labels
                .as_ref()
                .is_none_or(|expression| !expression.matches(&labels))
            && self
                .accounts
                .as_ref()
                .is_none_or(|accounts| accounts.matches(endpoint))
    }
}

impl NamespaceScope {
    fn matches(&self, namespace: Option<&Namespace>, dialect: Dialect) -> bool {
        match self {
            Self::Anywhere => true,
            Self::Matching(expression) => expression.matches(&NamespaceLabels { namespace, dialect }),
            Self::Named(name) => namespace.is_some_and(|namespace| namespace.name == *name),
        }
    }
}

impl AccountSelector {
    fn matches(&self, endpoint: &Endpoint) -> bool {
        let account = endpoint.account.as_deref();
        let named = |account: &Account| self.names.binary_search(&account.name).is_ok();
        (self.names.is_empty() || account.is_some_and(named))
            && self
                .labels
                .as_ref()
                .is_none_or(|expression| expression.matches(&AccountLabels(account)))
    }
}

const CALICO_NAME: &str = "projectcalico.org/name";

struct EndpointLabels<'a> {
    endpoint: &'a Endpoint,
    dialect: Dialect,
}

impl Labels for EndpointLabels<'_> {
    fn value(&self, key: &str) -> Option<&str> {
        if self.dialect == Dialect::Kubernetes {
            return self.endpoint.labels.value(key);
        }
        let namespace = self.endpoint.namespace.as_deref();
        let account = self.endpoint.account.as_deref();
        let derived = match key {
            "projectcalico.org/namespace" => namespace.map(|namespace| &*namespace.name),
            "projectcalico.org/orchestrator" => self.endpoint.is_pod().then_some("k8s"),
            "projectcalico.org/serviceaccount" => account.map(|account| &*account.name),
            _ => None,
        };
        // Calico writes the derived ones over the object's own; those inherited from the profiles give way to them.
        derived.or_else(|| self.endpoint.labels.value(key)).or_else(|| {
            if let Some(key) = key.strip_prefix("pcns.") {
                NamespaceLabels {
                    namespace,
                    dialect: self.dialect,
                }
                .value_of(key)
            } else {
                AccountLabels(account).value_of(key.strip_prefix("pcsa.")?)
            }
        })
    }

    // `all()` among an endpoint's labels holds for every endpoint.
    fn is_namespaced(&self) -> bool {
        true
    }
}

struct NamespaceLabels<'a> {
    namespace: Option<&'a Namespace>,
    dialect: Dialect,
}

impl<'a> NamespaceLabels<'a> {
    fn value_of(&self, key: &str) -> Option<&'a str> {
        let namespace = self.namespace?;
        match key {
            CALICO_NAME if self.dialect == Dialect::Calico => Some(&namespace.name),
            _ => namespace.labels.value(key),
        }
    }
}

impl Labels for NamespaceLabels<'_> {
    fn value(&self, key: &str) -> Option<&str> {
        self.value_of(key)
    }

    fn is_namespaced(&self) -> bool {
        self.namespace.is_some()
    }
}

struct AccountLabels<'a>(Option<&'a Account>);

impl<'a> AccountLabels<'a> {
    fn value_of(&self, key: &str) -> Option<&'a str> {
        let account = self.0?;
        match key {
            CALICO_NAME => Some(&account.name),
            _ => account.labels.value(key),
        }
    }
}

impl Labels for AccountLabels<'_> {
    fn value(&self, key: &str) -> Option<&str> {
        self.value_of(key)
    }
}

//! The signer and its client, over TLS on the loopback, before an API server that reviews tokens.

use std::path::PathBuf;

use adit_control::kubernetes::ca::{CaOptions, serve};
use adit_control::signing::{SignerClient, SignerOptions};
use adit_identity::{Expected, IssuedSvid, PeerRole, SourceError, SpiffeId, SvidSource, verify};
use std::time::SystemTime;
use tokio::net::TcpListener;

use super::*;

const TTL: Duration = Duration::from_secs(3600);

/// A signer that runs, and the folder that its agents' kubelets fill.
struct Signer {
    api: Api,
    port: u16,
    folder: PathBuf,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Signer {
    fn drop(&mut self) {
        self.task.abort();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn id(account: &str) -> SpiffeId {
    format!("spiffe://demo.local/ns/shop/sa/{account}")
        .parse()
        .unwrap()
}

/// A pod of node `one` that has no address yet.
fn starting(name: &str, account: &str) -> Value {
    json!({
        "metadata": {"namespace": "shop", "name": name, "uid": format!("uid-{name}")},
        "spec": {"nodeName": "one", "serviceAccountName": account, "containers": []},
        "status": {"phase": "Pending"},
    })
}

/// What the API server says of an agent's token.
fn agents_review() -> Value {
    json!({
        "authenticated": true,
        "audiences": ["adit-ca"],
        "user": {
            "username": "system:serviceaccount:adit-system:adit-agent",
            "extra": {
                "authentication.kubernetes.io/pod-name": ["adit-agent-x"],
                "authentication.kubernetes.io/pod-uid": ["uid-agent"],
                "authentication.kubernetes.io/node-name": ["one"],
            },
        },
    })
}

impl Signer {
    /// Starts one, and waits until agents can know its roots.
    async fn start(api: Api, name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("adit-signer-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let options = CaOptions {
            trust_domain: "demo.local".parse().unwrap(),
            namespace: "adit-system".to_owned(),
            service: "localhost".to_owned(),
            audience: "adit-ca".to_owned(),
            agents: vec!["adit-system/adit-agent".parse().unwrap()],
            max_ttl: TTL * 2,
        };
        let client = api.client();
        let task = tokio::spawn(async move {
            serve(client, options, listener, Arc::default(), std::future::pending())
                .await
                .unwrap();
        });
        let signer = Self {
            api,
            port,
            folder,
            task,
        };
        signer.bring_roots().await;
        std::fs::write(signer.folder.join("token"), "agents-token\n").unwrap();
        signer
    }

    /// What the kubelet does with the ConfigMap.
    async fn bring_roots(&self) {
        let path = "/api/v1/namespaces/adit-system/configmaps/adit-ca-root";
        for _ in 0..500 {
            if let Some(map) = self.api.single(path) {
                std::fs::write(
                    self.folder.join("root.pem"),
                    map["data"]["root.pem"].as_str().unwrap(),
                )
                .unwrap();
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("the signer published no root");
    }

    fn client(&self) -> SignerClient {
        SignerClient::new(SignerOptions {
            address: format!("localhost:{}", self.port),
            token: self.folder.join("token"),
            roots: self.folder.join("root.pem"),
            cluster: "Kubernetes".to_owned(),
            ttl: TTL,
        })
        .unwrap()
    }

    async fn ask(&self, account: &str) -> Result<IssuedSvid, SourceError> {
        self.client().obtain(&id(account), SystemTime::now()).await
    }

    async fn refusal(&self, account: &str) -> String {
        match self.ask(account).await {
            Ok(issued) => panic!("a certificate of {}", issued.svid.id()),
            Err(error) => error.to_string(),
        }
    }
}

fn api_with_pods() -> Api {
    let api = Api::default();
    api.put(PODS, starting("web-1", "web"));
    api.review_tokens("agents-token", agents_review());
    api
}

#[tokio::test]
async fn an_agent_gets_svids_of_what_its_node_runs() {
    let signer = Signer::start(api_with_pods(), "good").await;
    let issued = signer.ask("web").await.unwrap();
    let now = SystemTime::now();
    verify(
        issued.svid.chain(),
        PeerRole::Client,
        &issued.bundle,
        Expected::Id(&id("web")),
        now,
    )
    .unwrap();
    let left = issued.svid.not_after().duration_since(now).unwrap();
    assert!(left <= TTL && left > TTL - Duration::from_secs(60), "{left:?}");
    let refusal = signer.refusal("api").await;
    assert!(
        refusal.contains("node one runs no pod of spiffe://demo.local/ns/shop/sa/api"),
        "{refusal}"
    );
    assert!(refusal.contains("does not have permission"), "{refusal}");
}

#[tokio::test]
async fn a_pod_that_the_kubelet_knows_first_is_waited_for() {
    let signer = Signer::start(api_with_pods(), "late").await;
    let client = signer.client();
    let asked = tokio::spawn(async move { client.obtain(&id("late"), SystemTime::now()).await });
    tokio::time::sleep(Duration::from_millis(200)).await;
    signer.api.put(PODS, starting("late-1", "late"));
    assert!(asked.await.unwrap().is_ok());
    signer
        .api
        .put(PODS, with_host_network(starting("late-1", "late")));
    let refusal = signer.refusal("late").await;
    assert!(
        refusal.contains("runs no pod"),
        "a pod on its host's network is never in the mesh: {refusal}"
    );
}

fn with_host_network(mut pod: Value) -> Value {
    pod["spec"]["hostNetwork"] = json!(true);
    pod
}

#[tokio::test]
async fn nobody_else_gets_anything() {
    let signer = Signer::start(api_with_pods(), "others").await;
    let token = signer.folder.join("token");
    std::fs::write(&token, "stolen").unwrap();
    let refusal = signer.refusal("web").await;
    assert!(refusal.contains("the API server doesn't know it"), "{refusal}");
    let mut review = agents_review();
    review["user"]["username"] = json!("system:serviceaccount:shop:web");
    signer.api.review_tokens("webs-token", review);
    std::fs::write(&token, "webs-token").unwrap();
    let refusal = signer.refusal("web").await;
    assert!(
        refusal.contains("system:serviceaccount:shop:web is no agent"),
        "{refusal}"
    );
    std::fs::write(&token, "agents-token").unwrap();
    let other: SpiffeId = "spiffe://other.local/ns/shop/sa/web".parse().unwrap();
    let refusal = signer
        .client()
        .obtain(&other, SystemTime::now())
        .await
        .unwrap_err()
        .to_string();
    assert!(
        refusal.contains("expected a SPIFFE id of demo.local"),
        "{refusal}"
    );
    std::fs::remove_file(&token).unwrap();
    let refusal = signer.refusal("web").await;
    assert!(
        refusal.starts_with("reading the token for the signer"),
        "{refusal}"
    );
}

#[tokio::test]
async fn a_signer_that_starts_again_is_the_same_one() {
    let api = api_with_pods();
    let first = Signer::start(api.clone(), "first").await;
    let bundle = first.ask("web").await.unwrap().bundle;
    drop(first);
    let second = Signer::start(api, "second").await;
    assert_eq!(second.ask("web").await.unwrap().bundle, bundle);
}

#[tokio::test]
async fn a_secret_that_the_chart_made_empty_is_filled() {
    let api = api_with_pods();
    let path = "/api/v1/namespaces/adit-system/secrets/adit-ca";
    api.put_single(
        path,
        json!({"metadata": {"name": "adit-ca", "labels": {"app": "adit"}}}),
    );
    let signer = Signer::start(api, "empty").await;
    assert!(signer.ask("web").await.is_ok());
    let secret = signer.api.single(path).unwrap();
    assert!(secret["data"]["ca.pem"].as_str().unwrap().len() > 500);
    assert_eq!(
        secret["metadata"]["labels"]["app"], "adit",
        "what else stands there stays"
    );
    assert_eq!(
        signer
            .api
            .requests("POST /api/v1/namespaces/adit-system/secrets")
            .len(),
        0
    );
}

#[tokio::test]
async fn a_secret_of_something_else_is_not_replaced() {
    let api = api_with_pods();
    let path = "/api/v1/namespaces/adit-system/secrets/adit-ca";
    api.put_single(
        path,
        json!({"metadata": {"name": "adit-ca"}, "data": {"ca.pem": "anVuaw=="}}),
    );
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let options = CaOptions {
        trust_domain: "demo.local".parse().unwrap(),
        namespace: "adit-system".to_owned(),
        service: "adit-ca".to_owned(),
        audience: "adit-ca".to_owned(),
        agents: Vec::new(),
        max_ttl: TTL,
    };
    let error = serve(
        api.client(),
        options,
        listener,
        Arc::default(),
        std::future::pending(),
    )
    .await
    .unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("key ca.pem of Secret adit-system/adit-ca: "),
        "{error}"
    );
    assert_eq!(api.single(path).unwrap()["data"]["ca.pem"], "anVuaw==");
}

#[tokio::test]
async fn a_server_with_another_root_is_not_told_the_token() {
    let signer = Signer::start(api_with_pods(), "true").await;
    let impostor = Signer::start(api_with_pods(), "impostor").await;
    let root = std::fs::read(signer.folder.join("root.pem")).unwrap();
    std::fs::write(impostor.folder.join("root.pem"), root).unwrap();
    let refusal = impostor.refusal("web").await;
    assert!(refusal.contains("invalid peer certificate"), "{refusal}");
    assert!(
        impostor
            .api
            .bodies()
            .iter()
            .all(|(_, body)| body["kind"] != "TokenReview")
    );
    std::fs::remove_file(impostor.folder.join("root.pem")).unwrap();
    let refusal = impostor.refusal("web").await;
    assert!(refusal.contains("reading the signer's roots"), "{refusal}");
}

#[test]
fn an_address_has_a_port() {
    for bad in ["", "adit-ca", "adit-ca:", "a b:443", "adit-ca:443/path/"] {
        let options = SignerOptions {
            address: bad.to_owned(),
            token: PathBuf::new(),
            roots: PathBuf::new(),
            cluster: String::new(),
            ttl: TTL,
        };
        assert!(SignerClient::new(options).is_err(), "{bad:?}");
    }
}

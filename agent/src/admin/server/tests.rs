use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use adit_flow::FlowRecord;

use super::super::client::{AgentClient, ClientError, SupervisorClient};
use super::super::message::tests::record;
use super::*;

/// A folder of its own under the system's temporary one, removed at the end.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "adit-admin-{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn socket(&self) -> PathBuf {
        self.0.join("test.sock")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

struct Agent {
    calls: Mutex<Vec<String>>,
    flows: Arc<FlowHub>,
}

impl Agent {
    fn note(&self, call: String) -> Result<(), Fault> {
        self.calls.lock().unwrap().push(call);
        Ok(())
    }
}

impl Handler for Agent {
    async fn add_pod(&self, pod: WorkloadName) -> Result<(), Fault> {
        match pod.name.as_str() {
            "bad" => Err(Fault::new("ADIT-X001", "no")),
            _ => self.note(format!("add {pod}")),
        }
    }
    async fn counters(&self) -> Result<BTreeMap<String, u64>, Fault> {
        Ok([("flows".to_owned(), 7)].into())
    }
    async fn drain(&self, deadline_ms: u64) -> Result<(), Fault> {
        self.note(format!("drain {deadline_ms}"))
    }
    async fn dump(&self) -> Result<serde_json::Value, Fault> {
        Ok(serde_json::json!({"a": 1}))
    }
    async fn explain(&self, query: ExplainQuery) -> Result<Explained, Fault> {
        Ok(Explained {
            allowed: query.plain,
            text: format!("{} {}", query.from, query.to),
        })
    }
    fn flows(&self) -> Arc<FlowHub> {
        Arc::clone(&self.flows)
    }
    async fn identity(&self) -> Result<Vec<SvidStatus>, Fault> {
        Ok(Vec::new())
    }
    async fn remove_pod(&self, pod: WorkloadName) -> Result<(), Fault> {
        self.note(format!("remove {pod}"))
    }
    async fn set_mesh(&self, update: MeshUpdate) -> Result<(), Fault> {
        self.note(format!("mesh {}", update.generation))
    }
}

fn agent(folder: &Folder) -> Arc<Agent> {
    let agent = Arc::new(Agent {
        calls: Mutex::default(),
        flows: FlowHub::new(4),
    });
    tokio::spawn(serve(bind(&folder.socket()).unwrap(), Arc::clone(&agent)));
    agent
}

#[tokio::test]
async fn requests_reach_the_handler_in_order_and_refusals_come_back() {
    let folder = Folder::new();
    let agent = agent(&folder);
    let mut client = AgentClient::connect(&folder.socket()).await.unwrap();
    client.add_pod(WorkloadName::new("shop", "web")).await.unwrap();
    let refused = client
        .add_pod(WorkloadName::new("shop", "bad"))
        .await
        .unwrap_err();
    assert_eq!(refused.to_string(), "[ADIT-X001] no");
    client.drain(5).await.unwrap();
    client.remove_pod(WorkloadName::new("shop", "web")).await.unwrap();
    assert_eq!(client.counters().await.unwrap()["flows"], 7);
    assert_eq!(client.dump().await.unwrap()["a"], 1);
    assert_eq!(
        *agent.calls.lock().unwrap(),
        ["add shop/web", "drain 5", "remove shop/web"]
    );
}

#[tokio::test]
async fn the_socket_is_for_its_owner_only() {
    let folder = Folder::new();
    let _listener = bind(&folder.socket()).unwrap();
    assert_eq!(
        std::fs::metadata(folder.socket()).unwrap().permissions().mode() & 0o777,
        0o600
    );
    assert_eq!(
        bind(&folder.socket()).unwrap_err().kind(),
        io::ErrorKind::AddrInUse
    );
}

#[tokio::test]
async fn kept_records_come_at_once_and_new_ones_follow() {
    let folder = Folder::new();
    let agent = agent(&folder);
    agent.flows.publish(record("shop/a", "shop/b"));
    agent.flows.publish(record("shop/x", "shop/b"));
    let connect = || AgentClient::connect(&*Box::leak(Box::new(folder.socket())));
    let query = FlowQuery {
        from: Some("a".parse().unwrap()),
        ..FlowQuery::default()
    };
    let mut kept = connect().await.unwrap().flows(query.clone()).await.unwrap();
    assert!(matches!(kept.next().await.unwrap(), Some(FlowLine::Flow(_))));
    assert_eq!(kept.next().await.unwrap(), None);

    let mut followed = connect()
        .await
        .unwrap()
        .flows(FlowQuery {
            follow: true,
            ..query
        })
        .await
        .unwrap();
    assert!(matches!(followed.next().await.unwrap(), Some(FlowLine::Flow(_))));
    agent.flows.publish(record("shop/x", "shop/b"));
    agent.flows.publish(FlowRecord {
        bytes_sent: 42,
        ..record("shop/a", "shop/b")
    });
    let Some(FlowLine::Flow(flow)) = followed.next().await.unwrap() else {
        panic!("no flow")
    };
    assert_eq!(flow.bytes_sent, 42);
    agent.flows.close();
    assert_eq!(followed.next().await.unwrap(), None);
}

#[tokio::test]
async fn a_connection_too_many_is_told_so_and_the_rest_live_on() {
    let folder = Folder::new();
    let _agent = agent(&folder);
    let mut clients = Vec::new();
    for _ in 0..CONNECTION_LIMIT {
        let mut client = AgentClient::connect(&folder.socket()).await.unwrap();
        client.identity().await.unwrap();
        clients.push(client);
    }
    let mut late = AgentClient::connect(&folder.socket()).await.unwrap();
    let refused = late.identity().await.unwrap_err();
    assert!(
        matches!(&refused, ClientError::Refused(fault) if fault.code == codes::BUSY),
        "{refused}"
    );
    clients[0].identity().await.unwrap();
}

#[tokio::test]
async fn bytes_that_are_no_request_are_answered_and_harm_nobody() {
    let folder = Folder::new();
    let _agent = agent(&folder);
    let mut raw = UnixStream::connect(folder.socket()).await.unwrap();
    raw.write_all(b"\xff\xfe{\n\n{\"version\":1}\n").await.unwrap();
    raw.shutdown().await.unwrap();
    let mut answers = String::new();
    raw.read_to_string(&mut answers).await.unwrap();
    assert_eq!(answers.matches(codes::MALFORMED).count(), 3, "{answers}");
    AgentClient::connect(&folder.socket())
        .await
        .unwrap()
        .identity()
        .await
        .unwrap();
}

struct Supervisor {
    left: Arc<tokio::sync::Notify>,
    stopping: tokio::sync::Notify,
}

struct Member(Arc<tokio::sync::Notify>);

impl Drop for Member {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

impl SupervisorHandler for Supervisor {
    type Member = Member;
    async fn down(&self) -> Result<(), Fault> {
        Ok(())
    }
    async fn join(&self, request: JoinRequest) -> Result<(JoinTicket, Member), Fault> {
        let ticket = JoinTicket {
            node_socket: "/node.sock".into(),
            pod: request.name.to_string(),
            addresses: Vec::new(),
        };
        Ok((ticket, Member(Arc::clone(&self.left))))
    }
    async fn ps(&self) -> Result<PsReport, Fault> {
        Err(Fault::new("ADIT-X002", "nothing runs"))
    }
    async fn stopping(&self) {
        self.stopping.notified().await;
    }
}

#[tokio::test]
async fn members_leave_with_their_connection_and_are_told_of_the_end() {
    let folder = Folder::new();
    let left = Arc::new(tokio::sync::Notify::new());
    let supervisor = Arc::new(Supervisor {
        left: Arc::clone(&left),
        stopping: tokio::sync::Notify::new(),
    });
    tokio::spawn(serve_supervisor(
        bind(&folder.socket()).unwrap(),
        Arc::clone(&supervisor),
    ));
    let request = JoinRequest {
        name: WorkloadName::new("shop", "debug"),
        labels: BTreeMap::new(),
        service_account: None,
    };
    let client = SupervisorClient::connect(&folder.socket()).await.unwrap();
    let joined = client.join(request.clone()).await.unwrap();
    assert_eq!(joined.ticket.pod, "shop/debug");
    drop(joined);
    left.notified().await;

    let client = SupervisorClient::connect(&folder.socket()).await.unwrap();
    let mut joined = client.join(request).await.unwrap();
    supervisor.stopping.notify_one();
    joined.ended().await;
    left.notified().await;
}

use std::net::IpAddr;
use std::path::Path;

use adit_control::{Snapshot, View};
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, RData, RecordType};
use proptest::prelude::*;

use super::*;

const MESH: &str = "
apiVersion: adit.dev/v1alpha1
kind: Mesh
name: shop
namespaces:
- name: shop
- name: bank
workloads:
- {name: web, namespace: shop, replicas: 2, labels: {app: web}, command: [web], ports: [{name: http, containerPort: 8080}]}
- {name: db, namespace: shop, replicas: 3, labels: {app: db}, command: [db], ports: [{name: sql, containerPort: 5432}]}
- {name: many, namespace: shop, replicas: 100, labels: {app: many}, command: [many]}
- {name: api, namespace: shop, labels: {app: api}, command: [api]}
- {name: debug, namespace: shop, command: [sh]}
- {name: vault, namespace: bank, labels: {app: vault}, command: [vault]}
services:
- name: web
  namespace: shop
  selector: {app: web}
  ports:
  - {name: http, port: 80, targetPort: http}
  - {name: metrics, port: 9090}
- {name: api, namespace: shop, selector: {app: api}, ports: [{port: 80}]}
- {name: db, namespace: shop, clusterIP: None, selector: {app: db}, ports: [{name: sql, port: 5432, targetPort: sql}]}
- {name: many, namespace: shop, clusterIP: None, selector: {app: many}}
- {name: vault, namespace: bank, selector: {app: vault}, ports: [{name: dns, port: 53, protocol: UDP}]}
";

/// Everything is ready but `db-1`.
fn snapshot() -> Snapshot {
    let loaded =
        adit_control::parse(Path::new("mesh.yaml"), MESH).unwrap_or_else(|report| panic!("{report}"));
    let ready = |name: &adit_flow::WorkloadName| name.name != "db-1";
    adit_control::build(
        &loaded.mesh,
        View {
            node: None,
            ready: &ready,
            joined: &[],
            generation: 7,
        },
    )
}

fn query(name: &str, record_type: RecordType) -> Message {
    let mut message = Message::new(4711, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), record_type));
    message
}

fn ask(message: &Message, transport: Transport) -> Answer {
    answer(&message.to_vec().unwrap(), &snapshot(), "shop", transport)
}

fn replied(message: &Message, transport: Transport) -> Message {
    match ask(message, transport) {
        Answer::Reply(bytes) => Message::from_vec(&bytes).unwrap(),
        other => panic!("expected a reply to {message:?}, got {other:?}"),
    }
}

/// The answer in words: a code, or the data of each record in order of its text.
fn told(name: &str, record_type: RecordType) -> Vec<String> {
    let message = query(name, record_type);
    if ask(&message, Transport::Udp) == Answer::Forward {
        return vec!["forward".to_owned()];
    }
    let reply = replied(&message, Transport::Udp);
    assert_eq!(
        (reply.metadata.id, reply.metadata.message_type),
        (4711, MessageType::Response)
    );
    assert!(
        reply.metadata.authoritative
            && reply.metadata.recursion_desired
            && reply.metadata.recursion_available
    );
    assert_eq!(reply.queries, message.queries);
    let mut words: Vec<String> = reply
        .answers
        .iter()
        .map(|record| record.data.to_string())
        .collect();
    assert!(
        reply
            .answers
            .iter()
            .all(|record| record.name == *message.queries[0].name() && record.ttl == TTL)
    );
    words.sort();
    let has_soa = reply
        .authorities
        .iter()
        .any(|record| record.record_type() == RecordType::SOA);
    assert_eq!(
        has_soa,
        reply.answers.is_empty(),
        "a start of authority stands exactly where nothing else does"
    );
    match (reply.metadata.response_code, words.is_empty()) {
        (ResponseCode::NoError, false) => words,
        (ResponseCode::NoError, true) => vec!["no data".to_owned()],
        (ResponseCode::NXDomain, true) => vec!["no such name".to_owned()],
        other => panic!("{other:?}"),
    }
}

fn address(namespace: &str, name: &str, v4: bool) -> String {
    let snapshot = snapshot();
    let name = adit_flow::WorkloadName::new(namespace, name);
    let service = snapshot
        .services
        .get(&name)
        .map(|service| service.addresses.clone())
        .filter(|found| !found.is_empty());
    let found = service.unwrap_or_else(|| snapshot.workloads[&name].addresses.clone());
    found
        .into_iter()
        .find(|address| address.is_ipv4() == v4)
        .unwrap()
        .to_string()
}

#[test]
fn a_service_is_found_by_each_of_its_names() {
    for name in [
        "web.shop.svc.cluster.local.",
        "WEB.Shop.svc.Cluster.Local.",
        "web.shop.svc.",
        "web.shop.",
        "web.",
    ] {
        assert_eq!(
            told(name, RecordType::A),
            [address("shop", "web", true)],
            "{name}"
        );
        assert_eq!(
            told(name, RecordType::AAAA),
            [address("shop", "web", false)],
            "{name}"
        );
        assert_eq!(told(name, RecordType::MX), ["no data"], "{name}");
        assert_eq!(told(name, RecordType::HTTPS), ["no data"], "{name}");
    }
}

#[test]
fn a_bare_name_is_of_the_askers_namespace() {
    assert_eq!(told("vault.", RecordType::A), ["forward"]);
    let asked = query("vault.", RecordType::A).to_vec().unwrap();
    assert!(matches!(
        answer(&asked, &snapshot(), "bank", Transport::Udp),
        Answer::Reply(_)
    ));
}

#[test]
fn replicas_are_found_by_their_own_names_and_behind_their_service() {
    let expected = [address("shop", "web-1", true)];
    for name in [
        "web-1.",
        "web-1.shop.",
        "web-1.shop.svc.cluster.local.",
        "web-1.web.shop.svc.cluster.local.",
        "web-1.web.shop.",
        "web-1.web.",
    ] {
        assert_eq!(told(name, RecordType::A), expected, "{name}");
    }
    assert_eq!(
        told("debug.shop.svc.cluster.local.", RecordType::A),
        [address("shop", "debug", true)]
    );
    // db-1 isn't ready: its own names still lead to it, or a cluster that forms itself never becomes ready.
    assert_eq!(
        told("db-1.db.shop.svc.cluster.local.", RecordType::A),
        [address("shop", "db-1", true)]
    );
    assert_eq!(
        told("web-2.web.shop.svc.cluster.local.", RecordType::A),
        ["no such name"]
    );
    assert_eq!(
        told("db-0.web.shop.svc.cluster.local.", RecordType::A),
        ["no such name"]
    );
}

#[test]
fn a_headless_service_is_its_ready_workloads() {
    let mut expected = vec![address("shop", "db-0", true), address("shop", "db-2", true)];
    expected.sort();
    assert_eq!(told("db.shop.svc.cluster.local.", RecordType::A), expected);
}

#[test]
fn ports_are_found_by_name() {
    assert_eq!(
        told("_http._tcp.web.shop.svc.cluster.local.", RecordType::SRV),
        ["0 100 80 web.shop.svc.cluster.local."]
    );
    assert_eq!(
        told("_sql._tcp.db.", RecordType::SRV),
        [
            "0 100 5432 db-0.db.shop.svc.cluster.local.",
            "0 100 5432 db-2.db.shop.svc.cluster.local."
        ]
    );
    assert_eq!(
        told("web.shop.svc.cluster.local.", RecordType::SRV),
        [
            "0 100 80 web.shop.svc.cluster.local.",
            "0 100 9090 web.shop.svc.cluster.local."
        ]
    );
    assert_eq!(
        told("_http._udp.web.shop.svc.cluster.local.", RecordType::SRV),
        ["no such name"]
    );
    assert_eq!(
        told("_none._tcp.web.shop.svc.cluster.local.", RecordType::SRV),
        ["no such name"]
    );
    assert_eq!(
        told("_http._tcp.web.shop.svc.cluster.local.", RecordType::A),
        ["no data"]
    );
    assert_eq!(
        told("_tcp.web.shop.svc.cluster.local.", RecordType::SRV),
        ["no data"]
    );
    assert_eq!(
        told("_dns._udp.vault.bank.svc.cluster.local.", RecordType::SRV),
        ["0 100 53 vault.bank.svc.cluster.local."]
    );
    let reply = replied(
        &query("_http._tcp.web.shop.svc.cluster.local.", RecordType::SRV),
        Transport::Udp,
    );
    let glue: Vec<String> = reply
        .additionals
        .iter()
        .map(|record| record.data.to_string())
        .collect();
    assert_eq!(
        glue,
        [address("shop", "web", true), address("shop", "web", false)]
    );
}

#[test]
fn what_the_zone_has_not_is_denied_and_what_is_elsewhere_forwarded() {
    for (name, expected) in [
        ("cluster.local.", "no data"),
        ("svc.cluster.local.", "no data"),
        ("shop.svc.cluster.local.", "no data"),
        ("dns.cluster.local.", "no data"),
        ("nobody.shop.svc.cluster.local.", "no such name"),
        ("web.nowhere.svc.cluster.local.", "no such name"),
        ("nowhere.svc.cluster.local.", "no such name"),
        ("example.com.cluster.local.", "no such name"),
        ("web.shop.svc.svc.cluster.local.", "no such name"),
        ("web.shop.cluster.local.", "no such name"),
        ("nobody.shop.svc.", "no such name"),
        ("example.com.", "forward"),
        ("example.shop.", "forward"),
        ("nobody.", "forward"),
        (".", "forward"),
        ("local.", "forward"),
        ("4.3.2.1.in-addr.arpa.", "forward"),
        ("77.10.in-addr.arpa.", "forward"),
    ] {
        assert_eq!(told(name, RecordType::A), [expected], "{name}");
    }
}

#[test]
fn addresses_of_the_mesh_have_names_that_lead_back() {
    let snapshot = snapshot();
    let arpa = |address: &str| Name::from(address.parse::<IpAddr>().unwrap()).to_string();
    for (namespace, name, expected) in [
        ("shop", "web", "web.shop.svc.cluster.local."),
        ("shop", "web-0", "web-0.shop.svc.cluster.local."),
        ("bank", "vault", "vault.bank.svc.cluster.local."),
    ] {
        for v4 in [true, false] {
            let address = address(namespace, name, v4);
            assert_eq!(told(&arpa(&address), RecordType::PTR), [expected]);
            assert_eq!(told(&arpa(&address), RecordType::A), ["no data"]);
            assert_eq!(
                told(expected, if v4 { RecordType::A } else { RecordType::AAAA }),
                [address]
            );
        }
    }
    // Service and workload are both called api; the workload is found behind the service.
    let own = snapshot.workloads[&adit_flow::WorkloadName::new("shop", "api")].addresses[0].to_string();
    assert_eq!(
        told(&arpa(&own), RecordType::PTR),
        ["api.api.shop.svc.cluster.local."]
    );
    assert_eq!(told("api.api.shop.svc.cluster.local.", RecordType::A), [own]);
    assert_eq!(
        told(&arpa(&snapshot.dns[0].to_string()), RecordType::PTR),
        ["ns.dns.cluster.local."]
    );
    assert_eq!(
        told("ns.dns.cluster.local.", RecordType::A),
        [snapshot.dns[0].to_string()]
    );
}

#[test]
fn an_answer_that_does_not_fit_is_cut_and_whole_over_tcp() {
    let mut asked = query("many.shop.svc.cluster.local.", RecordType::A);
    let short = replied(&asked, Transport::Udp);
    assert!(short.metadata.truncation && short.answers.is_empty() && short.edns.is_none());
    let whole = replied(&asked, Transport::Tcp);
    assert!(!whole.metadata.truncation);
    assert_eq!(whole.answers.len(), 100);
    let mut edns = Edns::new();
    edns.set_max_payload(4096);
    asked.set_edns(edns);
    let whole = replied(&asked, Transport::Udp);
    assert_eq!((whole.answers.len(), whole.metadata.truncation), (100, false));
    assert!(whole.edns.is_some());
}

#[test]
fn additional_records_are_left_out_before_the_answer_is_cut() {
    // Three records of one target and its addresses: the limit of 512 bytes lies between with and without the latter.
    let mut asked = query("db.shop.svc.cluster.local.", RecordType::SRV);
    assert_eq!(replied(&asked, Transport::Udp).additionals.len(), 4);
    asked = query("many.shop.svc.cluster.local.", RecordType::SRV);
    assert!(replied(&asked, Transport::Udp).answers.is_empty());
    let parsed = message::Query::read(&query("x.", RecordType::A).to_vec().unwrap())
        .ok()
        .unwrap();
    let data = |octet| RData::A(hickory_proto::rr::rdata::A([10, 0, 0, octet].into()));
    let mut reply = Reply::to(&parsed);
    let answers: Vec<RData> = (0..20).map(data).collect();
    reply.found(
        &SHARED,
        &parsed,
        Name::root(),
        zone::Records {
            answers,
            glue: Vec::new(),
        },
    );
    reply.add_glue((0..20).map(|octet| (Name::from_ascii("y.").unwrap(), IpAddr::from([10, 0, 0, octet]))));
    let reply = Message::from_vec(&reply.encode(&parsed, Transport::Udp)).unwrap();
    assert_eq!(
        (
            reply.answers.len(),
            reply.additionals.len(),
            reply.metadata.truncation
        ),
        (20, 0, false)
    );
}

#[test]
fn clients_are_spread_over_the_addresses() {
    let mut first = std::collections::BTreeSet::new();
    for id in 0..10 {
        let mut asked = query("db.shop.svc.cluster.local.", RecordType::A);
        asked.metadata.id = id;
        first.insert(replied(&asked, Transport::Udp).answers[0].data.to_string());
    }
    assert_eq!(first.len(), 2);
}

#[test]
fn what_is_no_plain_query_gets_the_code_that_says_so() {
    let code = |message: &Message| replied(message, Transport::Udp).metadata.response_code;
    let mut update = query("web.", RecordType::A);
    update.metadata.op_code = OpCode::Notify;
    assert_eq!(code(&update), ResponseCode::NotImp);
    let mut newer = query("web.", RecordType::A);
    let mut edns = Edns::new();
    edns.set_version(1);
    newer.set_edns(edns);
    // 16 is BADSIG too, where there is a signature.
    assert_eq!(u16::from(code(&newer)), u16::from(ResponseCode::BADVERS));
    let mut chaos = query("web.", RecordType::A);
    chaos.queries[0].set_query_class(DNSClass::CH);
    assert_eq!(code(&chaos), ResponseCode::Refused);
    let mut two = query("web.", RecordType::A);
    two.add_query(Query::query(Name::from_ascii("api.").unwrap(), RecordType::A));
    assert_eq!(code(&two), ResponseCode::FormErr);
    let mut response = query("web.", RecordType::A);
    response.metadata.message_type = MessageType::Response;
    assert_eq!(
        ask(&response, Transport::Udp),
        Answer::Drop(DropReason::NotAQuery)
    );
    let short = answer(&[1, 2, 3], &snapshot(), "shop", Transport::Udp);
    assert_eq!(short, Answer::Drop(DropReason::TooShort { got: 3 }));
    let cut = &query("web.", RecordType::A).to_vec().unwrap()[..15];
    let Answer::Reply(reply) = answer(cut, &snapshot(), "shop", Transport::Udp) else {
        panic!("expected FORMERR");
    };
    let reply = Message::from_vec(&reply).unwrap();
    assert_eq!(
        (reply.metadata.id, reply.metadata.response_code),
        (4711, ResponseCode::FormErr)
    );
}

#[test]
fn the_files_point_at_the_mesh() {
    let snapshot = snapshot();
    assert_eq!(
        resolv_conf("shop", &snapshot.dns),
        "search shop.svc.cluster.local svc.cluster.local cluster.local\nnameserver 10.78.0.10\n\
         nameserver fd77:6164:6974:78::a\noptions ndots:5\n"
    );
    let hosts = hosts(&snapshot.workloads[&adit_flow::WorkloadName::new("shop", "debug")]);
    let own = address("shop", "debug", true);
    assert!(
        hosts.starts_with("127.0.0.1\tlocalhost\n")
            && hosts.contains(&format!("\n{own}\tdebug.shop.svc.cluster.local debug\n")),
        "{hosts}"
    );
    assert_eq!(
        nsswitch("passwd: files sss\n hosts : files resolve\nhosts: mdns\n"),
        "passwd: files sss\nhosts: files dns\n"
    );
    assert_eq!(nsswitch(""), "hosts: files dns\n");
}

fn labels() -> impl Strategy<Value = String> {
    let label = prop_oneof![
        prop::sample::select(vec![
            "web", "web-0", "db", "shop", "bank", "svc", "cluster", "local", "_http", "_tcp", "in-addr",
            "arpa", "10"
        ])
        .prop_map(str::to_owned),
        "[a-z0-9][a-z0-9_-]{0,18}[a-z0-9]",
    ];
    prop::collection::vec(label, 0..7).prop_map(|labels| labels.join(".") + ".")
}

proptest! {
    /// Whatever comes, the answer can be read, echoes the id and isn't itself a query.
    #[test]
    fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..600), tcp: bool) {
        check(&bytes, tcp)?;
    }

    /// The same for queries that are nearly right.
    #[test]
    fn damaged_queries_are_survived(
        name in labels(), kind: u16, edns in prop::option::of(any::<u16>()), damage: Vec<(prop::sample::Index, u8)>, tcp: bool,
    ) {
        let mut message = query(&name, RecordType::from(kind));
        if let Some(payload) = edns {
            let mut edns = Edns::new();
            edns.set_max_payload(payload);
            message.set_edns(edns);
        }
        let mut bytes = message.to_vec().unwrap();
        check(&bytes, tcp)?;
        for (index, byte) in damage {
            let index = index.index(bytes.len());
            bytes[index] = byte;
        }
        check(&bytes, tcp)?;
    }
}

fn check(bytes: &[u8], tcp: bool) -> Result<(), TestCaseError> {
    let transport = if tcp { Transport::Tcp } else { Transport::Udp };
    if let Answer::Reply(reply) = answer(bytes, &SHARED, "shop", transport) {
        let limit = if tcp { 65_535 } else { 4096 };
        prop_assert!(reply.len() <= limit);
        prop_assert_eq!(&reply[..2], &bytes[..2]);
        let message = Message::from_vec(&reply).map_err(|error| TestCaseError::fail(error.to_string()))?;
        prop_assert_eq!(message.metadata.message_type, MessageType::Response);
        prop_assert!(message.edns.is_none() || message.metadata.response_code != ResponseCode::FormErr);
    }
    Ok(())
}

static SHARED: std::sync::LazyLock<Snapshot> = std::sync::LazyLock::new(snapshot);

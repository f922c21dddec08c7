//! A pod joins and leaves while its connections are open, and what passes between the two.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::time::Duration;

use adit_link::{Frame, Queue};
use adit_node::cluster::{Admissions, Decision, Family, Kind};
use adit_node::codes::Code;
use rustix::net::sockopt;

use crate::agent::Forwarder;
use crate::pod::Pod;
use crate::runner::Case;
use crate::stream::{PORT, Stream};
use crate::world::{World, eventually, ip_in};

pub(crate) const ALL: &[Case] = &[
    (
        "open_connections_lose_nothing_as_a_pod_joins_and_leaves",
        open_connections,
    ),
    ("a_pod_that_left_is_as_it_was", leaves_no_trace),
    ("what_comes_for_the_pod_reaches_the_agent_as_a_packet", packets),
    (
        "agents_connections_end_in_sockets_of_the_outer_side",
        agents_sockets,
    ),
    ("datagrams_pass_both_ways", datagrams),
    ("requests_for_what_is_not_there_are_refused_by_name", refusals),
    ("a_pod_that_takes_anothers_address_is_not_taken_for_it", impostor),
    ("a_pod_with_another_way_out_is_refused", another_way_out),
    ("a_way_out_that_is_made_at_the_last_moment_is_found", last_moment),
    ("the_nodes_own_namespace_is_nobodys_pod", nodes_own),
    ("a_pod_with_very_many_addresses_delays_nobody", many_addresses),
];

/// Needs another user than this one.
pub(crate) const ROOT: &[Case] = &[("another_user_gets_nothing", strangers)];

pub(crate) const TUN: &[Case] = &[("a_join_that_fails_is_undone", failed_join)];

fn open_connections(world: &World) {
    world.start(&[]);
    let pod = Pod::new(world, "shop");
    let streams = [
        Stream::to_pod(&pod, pod.v4),
        Stream::from_pod(&pod, crate::pod::GATEWAY),
        Stream::from_pod(&pod, crate::pod::GATEWAY_V6),
    ];
    let flow = || streams.iter().for_each(|stream| assert!(stream.flows()));
    flow();
    let mut client = world.client();
    for _ in 0..3 {
        let (member, queues) = client.join(&pod.reference()).unwrap();
        assert_eq!(
            (member.wire_mtu, member.pod_mtu, member.ipv6),
            (1450, 65520, true)
        );
        let forwarder = Forwarder::start(queues);
        flow();
        let (from_pod, from_wire) = forwarder.counts();
        assert!(from_pod > 0 && from_wire > 0, "the packets pass the agent");
        client.leave(&pod.uid).unwrap();
        assert!(forwarder.ended(), "the queues end when the pod leaves");
        flow();
    }
    streams.into_iter().for_each(Stream::finish);
}

fn leaves_no_trace(world: &World) {
    world.start(&[]);
    let pod = Pod::new(world, "shop");
    let before = pod.state();
    let mut client = world.client();
    let (member, queues) = client.join(&pod.reference()).unwrap();
    assert_eq!(client.members().unwrap(), [member]);
    let links = ip_in(&pod.path, "-o -d link show");
    let kind = if world.link == "packet" { " veth " } else { " tun " };
    let is_there = |line: &str| line.contains(" eth0") && line.contains(kind) && line.contains("mtu 65520");
    assert!(links.lines().any(is_there), "{links}");
    assert_eq!(links.lines().count(), 2, "{links}");
    assert_ne!(pod.state(), before);
    assert_eq!(world.remembered().len(), world.remembered_of_one());
    client.leave(&pod.uid).unwrap();
    pod.assert_state(&before, "in the end");
    assert_eq!(world.remembered(), Vec::<String>::new());
    assert_eq!(client.members().unwrap(), []);
    drop(queues);
    let counters = client.stats().unwrap();
    assert_eq!((counters.pods_joined, counters.pods_left), (1, 1));
}

fn packets(world: &World) {
    world.start(&[]);
    let pod = Pod::new(world, "shop");
    let (_, queues) = world.client().join(&pod.reference()).unwrap();
    for address in [pod.v4, pod.v6] {
        let target = SocketAddr::new(address, PORT);
        let connecting =
            std::thread::spawn(move || TcpStream::connect_timeout(&target, Duration::from_secs(1)));
        let syn = frame_that(&queues.wire, |frame| destination(frame) == Some(target));
        assert!(syn.is_some(), "a SYN to {target} comes through out0");
        // Nobody answers it, least of all the kernel of O, which would say that nobody listens.
        let refused = connecting.join().unwrap().unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::TimedOut, "{refused}");
    }
    let outside = SocketAddr::new([192, 0, 2, 1].into(), PORT);
    pod.inside(|| {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.send_to(b"out", outside).unwrap();
    });
    let sent = frame_that(&queues.pod, |frame| destination(frame) == Some(outside)).unwrap();
    assert_eq!(IpAddr::from(*sent[12..].first_chunk::<4>().unwrap()), pod.v4);
}

fn agents_sockets(world: &World) {
    world.start(&[]);
    let pod = Pod::new(world, "shop");
    let mut client = world.client();
    let (_, queues) = client.join(&pod.reference()).unwrap();
    for address in [pod.v4, pod.v6] {
        let family = if address.is_ipv4() { Family::V4 } else { Family::V6 };
        let mut sockets = client.sockets(&pod.uid, family, Kind::Tcp, 64).unwrap();
        // Istio's port takes connections of everybody, for ztunnel's own have any source port.
        let hbone = listen(sockets.pop().unwrap(), SocketAddr::new(address, 15008));
        assert!(from_port(address, 0, 15008).is_none(), "the port isn't open yet");
        client.open_port(&pod.uid, 15008).unwrap();
        assert!(echo(&hbone, from_port(address, 0, 15008)));
        assert!(echo(&hbone, from_port(address, 61440, 15008)));
        // The application's port, below 1024, takes agents' only, and only once it is opened.
        let original = listen(sockets.pop().unwrap(), SocketAddr::new(address, 80));
        assert!(from_port(address, 61441, 80).is_none(), "the port isn't open yet");
        client.open_port(&pod.uid, 80).unwrap();
        client.open_port(&pod.uid, 80).unwrap();
        assert_eq!(client.members().unwrap()[0].open_ports, [80, 15008]);
        assert!(echo(&original, from_port(address, 61442, 80)));
        assert!(
            from_port(address, 40000, 80).is_none(),
            "plain clients are not agents"
        );
        client.close_port(&pod.uid, 80).unwrap();
        assert!(
            from_port(address, 61443, 80).is_none(),
            "the port is closed again"
        );
        client.close_port(&pod.uid, 15008).unwrap();
        // Connections of the agent itself come from the pod's address, and their answers come back.
        let node = if address.is_ipv4() {
            crate::pod::GATEWAY
        } else {
            crate::pod::GATEWAY_V6
        };
        let server = TcpListener::bind((node, 0)).unwrap();
        let socket = sockets.pop().unwrap();
        rustix::io::ioctl_fionbio(&socket, false).unwrap();
        rustix::net::connect(&socket, &server.local_addr().unwrap()).unwrap();
        let (mut accepted, peer) = server.accept().unwrap();
        assert_eq!(peer.ip(), address);
        assert!(peer.port() >= 61440, "{peer}");
        accepted.write_all(b"hello").unwrap();
        let mut answer = [0; 5];
        TcpStream::from(socket).read_exact(&mut answer).unwrap();
    }
    drop(queues);
}

fn datagrams(world: &World) {
    world.start(&[]);
    let pod = Pod::new(world, "shop");
    let (_, queues) = world.client().join(&pod.reference()).unwrap();
    let forwarder = Forwarder::start(queues);
    for (address, gateway) in [(pod.v4, crate::pod::GATEWAY), (pod.v6, crate::pod::GATEWAY_V6)] {
        let inside = pod.inside(|| UdpSocket::bind((address, 5353)).unwrap());
        let outside = UdpSocket::bind((gateway, 0)).unwrap();
        for socket in [&inside, &outside] {
            socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        }
        outside.send_to(b"ask", (address, 5353)).unwrap();
        let mut buffer = [0; 16];
        let (len, from) = inside.recv_from(&mut buffer).unwrap();
        assert_eq!(
            (&buffer[..len], from),
            (&b"ask"[..], outside.local_addr().unwrap())
        );
        inside.send_to(b"answer", from).unwrap();
        let (len, from) = outside.recv_from(&mut buffer).unwrap();
        assert_eq!((&buffer[..len], from.ip()), (&b"answer"[..], address));
    }
    drop(forwarder);
}

fn failed_join(world: &World) {
    world.start(&["--tun", "/nonexistent/tun"]);
    let pod = Pod::new(world, "shop");
    let before = pod.state();
    let mut client = world.client();
    let error = client.join(&pod.reference()).unwrap_err();
    assert_eq!(error.code(), Code::TUN_OPEN, "{error}");
    pod.assert_state(&before, "in the end");
    assert_eq!(world.remembered(), Vec::<String>::new());
    assert_eq!(client.stats().unwrap().joins_failed, 1);
}

fn refusals(world: &World) {
    world.start(&[]);
    let pod = Pod::new(world, "shop");
    let mut client = world.client();
    assert_eq!(client.leave(&pod.uid).unwrap_err().code(), Code::NOT_A_MEMBER);
    assert_eq!(
        client.open_port(&pod.uid, 80).unwrap_err().code(),
        Code::NOT_A_MEMBER
    );
    let mut elsewhere = pod.reference();
    elsewhere.addresses = vec!["10.244.9.9".parse().unwrap()];
    let error = client.join(&elsewhere).unwrap_err();
    assert_eq!(error.code(), Code::POD_NAMESPACE, "{error}");
    assert!(error.to_string().contains("10.244.9.9"), "{error}");

    let (_queues, again) = (client.join(&pod.reference()).unwrap(), pod.reference());
    for port in 1..=256 {
        client.open_port(&pod.uid, port).unwrap();
    }
    let error = client.open_port(&pod.uid, 257).unwrap_err();
    assert_eq!(error.code(), Code::TOO_MANY_PORTS);
    // The pod of another uid at the same address: a pod that is behind the agent is not taken for it.
    let stranger = adit_node::cluster::PodRef {
        uid: "another".into(),
        ..again
    };
    assert_eq!(client.join(&stranger).unwrap_err().code(), Code::POD_NAMESPACE);
}

fn impostor(world: &World) {
    world.start(&[]);
    let (pod, impostor) = (Pod::new(world, "shop"), Pod::new(world, "shop"));
    for address in [format!("{}/32", pod.v4), format!("{}/128", pod.v6)] {
        ip_in(&impostor.path, &format!("addr add {address} dev eth0"));
    }
    let mut client = world.client();
    let error = client.join(&pod.reference()).unwrap_err();
    assert_eq!(error.code(), Code::POD_NAMESPACE, "{error}");
    assert!(error.to_string().contains("both"), "{error}");
    assert_eq!(client.members().unwrap(), []);
    for address in [format!("{}/32", pod.v4), format!("{}/128", pod.v6)] {
        ip_in(&impostor.path, &format!("addr del {address} dev eth0"));
    }
    let (member, _queues) = client.join(&pod.reference()).unwrap();
    assert_eq!(member.addresses[0].ip, pod.v4);
}

/// A macvlan sends through the interface below it wherever that is moved, and past every route of the pod.
pub(crate) const MACVLAN: &str = "link add link eth0 name round0 type macvlan mode bridge";

fn another_way_out(world: &World) {
    world.start(&[]);
    let pod = Pod::new(world, "shop");
    let mut client = world.client();
    ip_in(&pod.path, MACVLAN);
    let before = pod.state();
    let error = client.join(&pod.reference()).unwrap_err();
    assert_eq!(error.code(), Code::POD_INTERFACE, "{error}");
    assert!(error.to_string().contains("round0 stands on eth0"), "{error}");
    pod.assert_state(&before, "in the end");
    assert_eq!(world.remembered(), Vec::<String>::new());
    ip_in(&pod.path, "link del round0");
    let (_, _queues) = client.join(&pod.reference()).unwrap();
}

fn last_moment(world: &World) {
    world.start(&["--macvlan-at", "move-out"]);
    let pod = Pod::new(world, "shop");
    let mut client = world.client();
    let error = client.join(&pod.reference()).unwrap_err();
    assert_eq!(error.code(), Code::POD_INTERFACE, "{error}");
    assert!(error.to_string().contains("round0 stands on eth0"), "{error}");
    ip_in(&pod.path, "link del round0");
    let links = ip_in(&pod.path, "-o -d link show");
    assert!(links.contains(" eth0@") && links.contains("mtu 1450"), "{links}");
    assert_eq!(links.lines().count(), 2, "{links}");
    assert_eq!(client.members().unwrap(), []);
}

fn nodes_own(world: &World) {
    world.start(&[]);
    let pod = Pod::new(world, "shop");
    let own = world.folder.join("netns/node");
    std::fs::write(&own, []).unwrap();
    rustix::mount::mount_bind("/proc/self/ns/net", &own).unwrap();
    let before = ip_in(&own, "-o link show");
    let mut node = pod.reference();
    node.addresses = vec![crate::pod::GATEWAY.parse().unwrap()];
    let error = world.client().join(&node).unwrap_err();
    assert_eq!(error.code(), Code::POD_NAMESPACE, "{error}");

    let admissions = Admissions::connect(&world.agent_socket()).unwrap();
    let answering = crate::plugin::answer_next(admissions, Decision::Join);
    let configuration = crate::plugin::configuration(world, &pod);
    let refused = world.plugin_for("ADD", &pod, &own, &configuration);
    let told = String::from_utf8_lossy(&refused.stdout);
    assert!(told.contains("the node's own network namespace"), "{told}");
    assert_eq!(ip_in(&own, "-o link show"), before);
    answering.join().unwrap();
    rustix::mount::unmount(&own, rustix::mount::UnmountFlags::DETACH).unwrap();
}

fn many_addresses(world: &World) {
    world.start(&[]);
    let (pod, greedy) = (Pod::new(world, "shop"), Pod::new(world, "shop"));
    let lines = (0..9000).map(|n| format!("addr add 172.16.{}.{}/32 dev eth0\n", n / 250, n % 250 + 1));
    let batch = world.folder.join("batch");
    std::fs::write(&batch, lines.collect::<String>()).unwrap();
    ip_in(&greedy.path, &format!("-batch {}", batch.display()));
    let mut client = world.client();
    // What it has isn't read to the end, so nothing of it is believed.
    let error = client.join(&greedy.reference()).unwrap_err();
    assert_eq!(error.code(), Code::POD_NAMESPACE, "{error}");
    let (member, _queues) = client.join(&pod.reference()).unwrap();
    assert_eq!(member.addresses[0].ip, pod.v4);
}

fn strangers(world: &World) {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::process::CommandExt;
    world.start(&[]);
    // The executable may be where others can't go.
    let copy = world.folder.join("stranger");
    std::fs::copy(std::env::current_exe().unwrap(), &copy).unwrap();
    std::fs::set_permissions(&copy, std::fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = std::process::Command::new(&copy);
    command
        .args(["as-stranger", "--socket"])
        .arg(world.agent_socket());
    let output = command.uid(65534).gid(65534).output().unwrap();
    assert!(!output.status.success(), "{output:?}");
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(told.contains("ADIT-N009"), "{told}");
    assert_eq!(world.client().stats().unwrap().clients_of_other_users, 1);
    let plugin_socket = std::fs::metadata(world.folder.join("state/cni.sock")).unwrap();
    assert_eq!(plugin_socket.permissions().mode() & 0o777, 0o600);
}

/// Listens with a blank socket.
fn listen(socket: OwnedFd, address: SocketAddr) -> TcpListener {
    rustix::net::bind(&socket, &address).unwrap();
    rustix::net::listen(&socket, 16).unwrap();
    TcpListener::from(socket)
}

/// Connects to the pod from a port of the node, any if 0; `None` when nobody answers.
fn from_port(to: IpAddr, port: u16, to_port: u16) -> Option<TcpStream> {
    let domain = match to {
        IpAddr::V4(_) => rustix::net::AddressFamily::INET,
        IpAddr::V6(_) => rustix::net::AddressFamily::INET6,
    };
    let socket = rustix::net::socket(domain, rustix::net::SocketType::STREAM, None).unwrap();
    sockopt::set_socket_reuseaddr(&socket, true).unwrap();
    // How long connect may take.
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Send, Some(Duration::from_millis(300))).unwrap();
    let any: IpAddr = match to {
        IpAddr::V4(_) => [0; 4].into(),
        IpAddr::V6(_) => [0; 16].into(),
    };
    rustix::net::bind(&socket, &SocketAddr::new(any, port)).unwrap();
    match rustix::net::connect(&socket, &SocketAddr::new(to, to_port)) {
        Ok(()) => Some(socket.into()),
        Err(rustix::io::Errno::INPROGRESS | rustix::io::Errno::AGAIN) => None,
        Err(error) => panic!("connecting to {to} port {to_port}: {error}"),
    }
}

/// Whether the listener gets what the client says.
fn echo(listener: &TcpListener, client: Option<TcpStream>) -> bool {
    let Some(mut client) = client else {
        return false;
    };
    client.write_all(b"word").unwrap();
    let mut accepted = None;
    assert!(eventually(|| {
        accepted = listener.accept().ok();
        accepted.is_some()
    }));
    let (mut server, peer) = accepted.unwrap();
    assert_eq!(peer, client.local_addr().unwrap());
    server.set_nonblocking(false).unwrap();
    let mut word = [0; 4];
    server.read_exact(&mut word).unwrap();
    word == *b"word"
}

/// Takes frames from a queue until one satisfies `wanted`.
pub(crate) fn frame_that(queue: &OwnedFd, wanted: impl Fn(&[u8]) -> bool) -> Option<Vec<u8>> {
    let queue = Queue::from_fd(queue.try_clone().unwrap()).unwrap();
    let (mut frame, mut found) = (Frame::default(), None);
    eventually(|| {
        while let Ok(received) = queue.recv(&mut frame) {
            if received.is_some() && wanted(frame.packet()) {
                found = Some(frame.packet().to_vec());
                return true;
            }
        }
        false
    });
    found
}

/// Where a TCP or UDP packet without options or extension headers goes.
pub(crate) fn destination(frame: &[u8]) -> Option<SocketAddr> {
    let (ip, ports): (IpAddr, usize) = match frame.first()? >> 4 {
        4 => ((*frame.get(16..)?.first_chunk::<4>()?).into(), 20),
        6 => ((*frame.get(24..)?.first_chunk::<16>()?).into(), 40),
        _ => return None,
    };
    let port = u16::from_be_bytes(*frame.get(ports + 2..)?.first_chunk()?);
    Some(SocketAddr::new(ip, port))
}

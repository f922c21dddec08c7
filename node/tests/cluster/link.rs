//! What pods' packets go through: TUN devices, or veth pairs with packet sockets.

use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;
use std::time::Duration;

use adit_link::{LinkKind, Queue, VnetHeader, ones_complement_sum, open_packet};
use adit_node::cluster::{Decision, PodQueues};
use nix::sys::socket::{setsockopt, sockopt};
use rustix::process::Signal;

use crate::agent::Forwarder;
use crate::joining::{destination, frame_that};
use crate::plugin::starts;
use crate::pod::{GATEWAY, GATEWAY_V6, Pod};
use crate::runner::Case;
use crate::stream::Stream;
use crate::world::{World, ip_in};

/// By either link.
pub(crate) const EITHER: &[Case] = &[
    ("a_pod_has_the_link_that_was_asked_for", chosen),
    ("super_packets_pass_in_one_piece", super_packets),
    (
        "datagrams_that_a_program_has_its_kernel_cut_come_cut",
        segmented_datagrams,
    ),
];

pub(crate) const PACKET: &[Case] = &[
    ("a_pair_looks_like_the_pods_own_interface", looks_alike),
    ("frames_to_the_agents_end_itself_go_nowhere", own_frames),
    ("a_pod_whose_journal_is_lost_is_not_taken_for_new", lost_journal),
];

pub(crate) const AUTO: &[Case] = &[
    ("without_a_tun_device_pods_join_by_veth_pairs", second_choice),
    ("a_pod_keeps_the_link_that_it_joined_by", kept),
    ("a_pod_of_a_runtime_class_joins_by_ethernet", by_ethernet),
];

const NO_TUN: &[&str] = &["--tun", "/nonexistent/tun"];

fn kinds(queues: &PodQueues) -> [LinkKind; 2] {
    [&queues.pod, &queues.wire].map(|queue| queue_of(queue).kind())
}

fn queue_of(queue: &OwnedFd) -> Queue {
    Queue::from_fd(queue.try_clone().unwrap()).unwrap()
}

fn chosen(world: &World) {
    world.start(&[]);
    let pod = Pod::new(world, "shop");
    let (_, queues) = world.client().join(&pod.reference()).unwrap();
    assert_eq!(kinds(&queues).map(|kind| kind.to_string()), [world.link; 2]);
}

fn super_packets(world: &World) {
    world.start(&[]);
    let pod = Pod::new(world, "shop");
    let streams = [Stream::to_pod(&pod, pod.v4), Stream::from_pod(&pod, GATEWAY_V6)];
    let forwarder = Forwarder::start(world.client().join(&pod.reference()).unwrap().1);
    assert!(streams.iter().all(Stream::flows));
    // The kernels of P and of O hand on more than one packet at a time, and take it.
    assert!(forwarder.super_packets() > 0);
    streams.into_iter().for_each(Stream::finish);
    drop(forwarder);
}

/// UDP_SEGMENT: one call, many datagrams, from P and from the wire.
fn segmented_datagrams(world: &World) {
    const SIZE: u16 = 500;
    world.start(&[]);
    let pod = Pod::new(world, "shop");
    let (_, queues) = world.client().join(&pod.reference()).unwrap();
    let outside = SocketAddr::new([192, 0, 2, 1].into(), 9);
    let inside = SocketAddr::new(pod.v4, 9);
    let send = |to: SocketAddr| {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        setsockopt(&socket, sockopt::UdpGsoSegment, &i32::from(SIZE)).unwrap();
        let pieces = (0..5_u8).flat_map(|number| [number; SIZE as usize]);
        socket.send_to(&pieces.collect::<Vec<_>>(), to).unwrap();
    };
    pod.inside(|| send(outside));
    send(inside);
    for (queue, to) in [(&queues.pod, outside), (&queues.wire, inside)] {
        for number in 0..5 {
            let datagram = frame_that(queue, |frame| destination(frame) == Some(to));
            let datagram = datagram.unwrap_or_else(|| panic!("five datagrams to {to}"));
            assert_eq!(datagram.len(), 20 + 8 + usize::from(SIZE), "to {to}");
            assert_eq!(datagram[28], number, "in their order, to {to}");
        }
        assert_eq!(queue_of(queue).counters().undescribed, 0);
    }
}

fn looks_alike(world: &World) {
    world.start(&[]);
    let pod = Pod::new(world, "shop");
    let hardware = || {
        let shown = ip_in(&pod.path, "-o link show eth0");
        let mut words = shown.split_whitespace().map(str::to_owned);
        words.find(|word| word == "link/ether").unwrap();
        words.next()
    };
    let before = hardware();
    let (_, queues) = world.client().join(&pod.reference()).unwrap();
    assert_eq!(hardware(), before);
    let routes = ip_in(&pod.path, "route show");
    assert!(
        routes.contains("default via 169.254.1.1 dev eth0") && routes.contains("metric 4096"),
        "{routes}"
    );
    let neighbours = ip_in(&pod.path, "neigh show nud permanent");
    for gateway in ["169.254.1.1 ", "fe80::1 "] {
        let line = neighbours.lines().find(|line| line.starts_with(gateway));
        assert!(
            line.is_some_and(|line| line.contains("02:61:64:69:74:01")),
            "{neighbours}"
        );
    }
    drop(queues);
}

/// Whoever may send frames of their own in P can address the agent's end itself, whose kernel takes them then.
fn own_frames(world: &World) {
    const PORT: u16 = 5354;
    world.start(&[]);
    let pod = Pod::new(world, "shop");
    let node = UdpSocket::bind((GATEWAY, PORT)).unwrap();
    node.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let (_, queues) = world.client().join(&pod.reference()).unwrap();
    pod.inside(|| {
        let socket = open_packet("eth0", 1).unwrap().pop().unwrap();
        // Both ends have one address, so what a socket on this one sends to it is for the other.
        let queue = Queue::from_fd(socket.into()).unwrap();
        for _ in 0..3 {
            queue
                .send(&VnetHeader::default(), [&datagram(&pod, PORT, b"round")[..]])
                .unwrap();
        }
    });
    // The agent gets it as a packet of the pod.
    let to = SocketAddr::new(GATEWAY.parse().unwrap(), PORT);
    assert!(frame_that(&queues.pod, |frame| destination(frame) == Some(to)).is_some());
    while queue_of(&queues.pod)
        .recv(&mut adit_link::Frame::default())
        .is_ok()
    {}
    let forwarder = Forwarder::start(queues);
    pod.inside(|| {
        let socket = UdpSocket::bind((pod.v4, 0)).unwrap();
        socket.send_to(b"through", (GATEWAY, PORT)).unwrap();
    });
    let mut buffer = [0; 16];
    let (len, _) = node.recv_from(&mut buffer).unwrap();
    assert_eq!(
        &buffer[..len],
        b"through",
        "nothing came before what the agent let through"
    );
    drop(forwarder);
}

/// From the pod to the node, whole.
pub(crate) fn datagram(pod: &Pod, port: u16, words: &[u8]) -> Vec<u8> {
    let std::net::IpAddr::V4(from) = pod.v4 else {
        panic!("{}", pod.v4)
    };
    let to = GATEWAY.parse::<std::net::Ipv4Addr>().unwrap();
    let udp_len = (8 + words.len()) as u16;
    let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 17, 0, 0];
    packet[2..4].copy_from_slice(&(20 + udp_len).to_be_bytes());
    packet.extend(from.octets());
    packet.extend(to.octets());
    let sum = !ones_complement_sum(&packet);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    for field in [port, port, udp_len, 0] {
        packet.extend(field.to_be_bytes());
    }
    packet.extend(words);
    packet
}

fn lost_journal(world: &World) {
    world.start(&[]);
    let pod = Pod::new(world, "shop");
    let queues = world.client().join(&pod.reference()).unwrap();
    world.end_node(Signal::KILL);
    let entry = world.folder.join("state/pods").join(&pod.uid);
    let kept = fs::read(&entry).unwrap();
    fs::remove_file(&entry).unwrap();
    world.start(&[]);
    let error = world.client().join(&pod.reference()).unwrap_err();
    assert!(error.to_string().contains("behind an agent already"), "{error}");
    // So that nothing of it stays.
    world.end_node(Signal::TERM);
    fs::write(&entry, kept).unwrap();
    drop(queues);
    assert!(world.role("as-uninstall").status().unwrap().success());
    assert_eq!(world.remembered(), Vec::<String>::new());
}

fn second_choice(world: &World) {
    let log = world.folder.join("log");
    let options = [NO_TUN, &["--log", log.to_str().unwrap()]].concat();
    world.start(&options);
    let pods = [Pod::new(world, "shop"), Pod::new(world, "shop")];
    let mut client = world.client();
    let streams = pods.each_ref().map(|pod| Stream::to_pod(pod, pod.v4));
    let forwarders = pods.each_ref().map(|pod| {
        let (_, queues) = client.join(&pod.reference()).unwrap();
        assert_eq!(kinds(&queues), [LinkKind::Packet; 2]);
        Forwarder::start(queues)
    });
    assert!(streams.iter().all(Stream::flows));
    assert_eq!(client.stats().unwrap().pods_without_tun, 2);
    let told = fs::read_to_string(&log).unwrap();
    let said = told.lines().filter(|line| line.contains("[ADIT-N044]"));
    let said = said.collect::<Vec<_>>();
    assert_eq!(said.len(), 1, "once: {told}");
    assert!(
        said[0].contains("/nonexistent/tun") && said[0].contains("(ADIT-N004)"),
        "{told}"
    );
    for pod in &pods {
        client.leave(&pod.uid).unwrap();
    }
    assert!(forwarders.into_iter().all(Forwarder::ended));
    assert!(streams.iter().all(Stream::flows));
    streams.into_iter().for_each(Stream::finish);
    assert_eq!(world.remembered(), Vec::<String>::new());
}

fn by_ethernet(world: &World) {
    for (link, kinds_of_both) in [
        ("auto", [LinkKind::Tun, LinkKind::Packet]),
        ("tun", [LinkKind::Tun; 2]),
        ("packet", [LinkKind::Packet; 2]),
    ] {
        world.start(&["--link", link]);
        for (decision, kind) in [Decision::Join, Decision::JoinByEthernet]
            .into_iter()
            .zip(kinds_of_both)
        {
            let pod = Pod::new(world, "shop");
            starts(world, &pod, decision);
            let (_, queues) = world.client().join(&pod.reference()).unwrap();
            assert_eq!(kinds(&queues), [kind; 2], "--link {link}");
            world.client().leave(&pod.uid).unwrap();
        }
        world.end_node(Signal::TERM);
    }
}

/// A helper that is started again with another choice.
fn kept(world: &World) {
    for (first, kind, second) in [
        ("tun", LinkKind::Tun, "packet"),
        ("packet", LinkKind::Packet, "tun"),
    ] {
        world.start(&["--link", first]);
        let pod = Pod::new(world, "shop");
        let before = pod.state();
        let stream = Stream::from_pod(&pod, GATEWAY);
        drop(world.client().join(&pod.reference()).unwrap());
        world.end_node(Signal::KILL);
        world.start(&["--link", second]);
        let mut client = world.client();
        let (_, queues) = client.join(&pod.reference()).unwrap();
        assert_eq!(kinds(&queues), [kind; 2]);
        let forwarder = Forwarder::start(queues);
        assert!(stream.flows());
        client.leave(&pod.uid).unwrap();
        assert!(forwarder.ended());
        assert!(stream.flows());
        stream.finish();
        pod.assert_state(&before, first);
        world.end_node(Signal::TERM);
    }
}

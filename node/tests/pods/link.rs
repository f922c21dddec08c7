//! Pods behind a veth pair with a packet socket.

use std::path::Path;
use std::process::Command;

use adit_link::{Checksum, Gso, GsoKind, LinkKind, PacketQueue, Queue, VnetHeader, ones_complement_sum};
use adit_node::Client;
use adit_node::codes::Code;
use adit_node::protocol::{PodInfo, PodSpec};

use crate::cases::{client_queue, packets_leave};
use crate::runner::Case;
use crate::world::{World, eventually, frame_of, frame_that, pod};

pub(crate) const ALL: &[Case] = &[
    (
        "packets_leave_through_a_packet_socket",
        packets_leave_through_a_packet_socket,
    ),
    (
        "whoever_asks_for_a_neighbour_is_answered",
        whoever_asks_for_a_neighbour_is_answered,
    ),
    ("programs_see_an_ethernet_device", programs_see_an_ethernet_device),
    (
        "datagrams_that_a_program_has_its_kernel_cut_come_cut",
        datagrams_that_a_program_has_its_kernel_cut_come_cut,
    ),
    (
        "a_super_packet_is_taken_in_one_piece",
        a_super_packet_is_taken_in_one_piece,
    ),
    (
        "a_flow_stays_on_one_packet_socket",
        a_flow_stays_on_one_packet_socket,
    ),
    (
        "without_a_tun_device_a_pod_gets_a_veth_pair",
        without_a_tun_device_a_pod_gets_a_veth_pair,
    ),
    (
        "a_packet_socket_outlives_its_agent",
        a_packet_socket_outlives_its_agent,
    ),
    (
        "an_outer_end_goes_with_the_last_socket",
        an_outer_end_goes_with_the_last_socket,
    ),
    (
        "without_either_link_both_are_named",
        without_either_link_both_are_named,
    ),
];

const PACKET: &[&str] = &["--link", "packet"];

fn create(world: &World, spec: &PodSpec) -> (Client, PodInfo) {
    let mut client = world.start(PACKET);
    let info = client.create_pod(spec).unwrap();
    assert_eq!((info.link, &info.warnings), (LinkKind::Packet, &Vec::new()));
    (client, info)
}

fn is_udp(version: u8) -> impl Fn(&VnetHeader, &[u8]) -> bool {
    move |_, packet| packet[0] >> 4 == version && packet[if version == 4 { 9 } else { 6 }] == 17
}

fn packets_leave_through_a_packet_socket(world: &World) {
    let (_, info) = create(world, &pod("a", 2));
    assert!(info.ipv6 && info.checksum_offload, "{info:?}");
    assert!(info.queue_bytes.is_some_and(|bytes| bytes > 64 << 10), "{info:?}");
    packets_leave(world);
}

/// Pods have host prefixes and a gateway that is written down. One that has a network asks for each neighbour in it.
fn whoever_asks_for_a_neighbour_is_answered(world: &World) {
    let mut spec = pod("a", 2);
    spec.addresses[0].prefix = 24;
    spec.addresses[1].prefix = 64;
    create(world, &spec);
    let queue = Queue::from_fd(client_queue(world, "a")).unwrap();
    for (to, version) in [("10.77.0.9:7", 4), ("[fd00:77::9]:7", 6)] {
        let before = queue.counters().questions_answered;
        assert!(world.app("a", &["send-udp", to]).status.success());
        let (_, packet) = frame_of(&queue, is_udp(version)).expect("the datagram follows the answer");
        assert!(packet.ends_with(b"hello from the pod"));
        assert_eq!(queue.counters().questions_answered, before + 1, "for {to}");
    }
}

fn programs_see_an_ethernet_device(world: &World) {
    create(world, &pod("a", 2));
    let devices = world.output_of("a", &["cat", "/proc/net/dev"]);
    let names = devices.lines().skip(2).filter_map(|line| line.split(':').next());
    let mut names = names.map(str::trim).collect::<Vec<_>>();
    names.sort_unstable();
    assert_eq!(names, ["eth0", "lo"], "the outer end is elsewhere");
    let neighbours = world.output_of("a", &["cat", "/proc/net/arp"]);
    let gateway = neighbours.lines().find(|line| line.starts_with("169.254.1.1 "));
    assert!(
        gateway.is_some_and(|line| line.contains("02:61:64:69:74:01")),
        "{neighbours}"
    );
}

/// UDP_SEGMENT: one call, many datagrams. As super-packets they would be one datagram to the reader of the queue.
fn datagrams_that_a_program_has_its_kernel_cut_come_cut(world: &World) {
    create(world, &pod("a", 2));
    assert!(
        world
            .app("a", &["send-udp-segments", "192.0.2.9:7", "1000", "5"])
            .status
            .success()
    );
    let queue = Queue::from_fd(client_queue(world, "a")).unwrap();
    for number in 0..5 {
        let (header, packet) = frame_of(&queue, is_udp(4)).expect("five datagrams");
        assert_eq!((header.gso, packet.len()), (None, 20 + 8 + 1000));
        assert_eq!(packet[28], number, "in their order");
    }
    assert_eq!(queue.counters().undescribed, 0);
}

/// To a port on which nobody listens: the reset acknowledges what the kernel saw, which is all of it or one piece.
fn a_super_packet_is_taken_in_one_piece(world: &World) {
    const PAYLOAD: u16 = 3000;
    let tun = World::new();
    for (world, link) in [(world, "packet"), (&tun, "tun")] {
        let mut client = world.start(&["--link", link]);
        client.create_pod(&pod("a", 2)).unwrap();
        let queue = Queue::from_fd(client_queue(world, "a")).unwrap();
        let header = VnetHeader {
            gso: Some(Gso {
                kind: GsoKind::TcpV4,
                ecn: false,
                segment: 1000,
            }),
            header_len: 40,
            ..VnetHeader::partial_checksum(20, 16)
        };
        queue.send(&header, [&segment(PAYLOAD)[..]]).unwrap();
        let is_reset = |_: &VnetHeader, packet: &[u8]| packet[9] == 6 && packet[33] & 4 != 0;
        let (_, reset) = frame_of(&queue, is_reset).unwrap();
        let acknowledged = u32::from_be_bytes(*reset[28..].first_chunk().unwrap());
        assert_eq!(acknowledged, 1 + u32::from(PAYLOAD), "by {link}");
    }
}

/// A TCP segment from elsewhere to pod "a" whose number is 1 and whose checksum is left out.
fn segment(payload: u16) -> Vec<u8> {
    let tcp_len = 20 + payload;
    let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 6, 0, 0];
    packet.extend([192, 0, 2, 9, 10, 77, 0, 2]);
    packet[2..4].copy_from_slice(&(20 + tcp_len).to_be_bytes());
    let sum = !ones_complement_sum(&packet);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    let pseudo = [&packet[12..20], &[0, 6], &tcp_len.to_be_bytes()].concat();
    packet.extend([0, 80, 0, 81, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 0x08, 0xff, 0xff]); // PSH
    packet.extend(ones_complement_sum(&pseudo).to_be_bytes());
    packet.extend([0; 2]);
    packet.resize(40 + usize::from(payload), 7);
    packet
}

fn a_flow_stays_on_one_packet_socket(world: &World) {
    let mut spec = pod("many", 2);
    spec.queues = 4;
    let (mut client, _) = create(world, &spec);
    let queues = client.open_queues("many").unwrap();
    assert_eq!(queues.len(), 4);
    let queues = queues
        .into_iter()
        .map(|queue| Queue::from_fd(queue).unwrap())
        .collect::<Vec<_>>();
    assert!(
        world
            .app("many", &["send-udp-segments", "192.0.2.9:7", "100", "8"])
            .status
            .success()
    );
    let mut found = [0; 4];
    let mut frame = adit_link::Frame::default();
    eventually(|| {
        for (count, queue) in found.iter_mut().zip(&queues) {
            while let Ok(received) = queue.recv(&mut frame) {
                *count += usize::from(received.is_some());
            }
        }
        found.iter().sum::<usize>() == 8
    });
    found.sort_unstable();
    assert_eq!(found, [0, 0, 0, 8]);
}

fn without_a_tun_device_a_pod_gets_a_veth_pair(world: &World) {
    let mut client = world.start_with_tun(&[], Path::new("/nonexistent/tun"));
    let info = client.create_pod(&pod("a", 2)).unwrap();
    assert_eq!(info.link, LinkKind::Packet);
    let [warning] = &info.warnings[..] else {
        panic!("{info:?}")
    };
    for part in ["ADIT-N044", "/nonexistent/tun", "ADIT-N004"] {
        assert!(warning.contains(part), "{warning}");
    }
    assert!(world.app("a", &["send-udp", "192.0.2.9:7"]).status.success());
    let (header, _) = frame_that(client_queue(world, "a"), is_udp(4)).unwrap();
    assert_eq!(header.checksum, Checksum::Partial { start: 20, offset: 6 });
}

/// What comes while no agent reads it waits for the next, who asks nobody to whom to write.
fn a_packet_socket_outlives_its_agent(world: &World) {
    let (mut client, _) = create(world, &pod("a", 2));
    let mac_address = || {
        let queue = PacketQueue::from_fd(client_queue(world, "a")).unwrap();
        queue.mac_address().to_string()
    };
    assert_eq!(mac_address(), "0a:61:0a:4d:00:02");
    drop(client.open_queues("a").unwrap());
    drop(client);
    assert!(world.app("a", &["send-udp", "192.0.2.9:7"]).status.success());
    assert!(frame_that(client_queue(world, "a"), is_udp(4)).is_some());
    assert_eq!(mac_address(), "0a:61:0a:4d:00:02");
}

fn an_outer_end_goes_with_the_last_socket(world: &World) {
    let (mut client, _) = create(world, &pod("a", 2));
    let queue = Queue::from_fd(client_queue(world, "a")).unwrap();
    client.delete_pod("a").unwrap();
    // The pod's namespaces are gone, and with them its end of the pair: the outer end says so.
    let mut frame = adit_link::Frame::default();
    assert!(eventually(|| {
        let ended = queue.recv(&mut frame).err();
        ended.is_some_and(|error| error.kind() != std::io::ErrorKind::WouldBlock)
    }));
}

fn without_either_link_both_are_named(world: &World) {
    // The limit of a user namespace counts for what is made below it: a network namespace for a pod, none for its wire.
    let script = "echo 1 > /proc/sys/user/max_net_namespaces; exec \"$@\"";
    let node = world.node_command(&[], Path::new("/nonexistent/tun"));
    let mut command = Command::new("unshare");
    command
        .args(["-Ur", "sh", "-c", script, "sh"])
        .arg(node.get_program())
        .args(node.get_args());
    world.start_command(command);
    let mut client = Client::connect(&world.socket()).unwrap();
    let error = client.create_pod(&pod("a", 2)).unwrap_err();
    assert_eq!(error.code(), Code::NO_LINK, "{error}");
    let text = error.to_string();
    for part in ["/nonexistent/tun", "veth pair", "network namespace"] {
        assert!(text.contains(part), "{text}");
    }
}

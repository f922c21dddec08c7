//! Windows, probes, disorder; flows that rest, and that the engine takes over.

use super::*;

#[test]
fn segments_out_of_order_repeated_and_overlapping_are_put_together() {
    let (mut rig, flow) = Rig::open(config());
    rig.pod(ACK, 6, 1, b"ghi");
    assert_eq!(
        rig.sent(),
        [sent(ACK, 1, 0, b"")],
        "what is missing is asked for at once"
    );
    rig.pod(ACK, 2, 1, b"cdef");
    rig.pod(ACK, 0, 1, b"abcd");
    rig.pod(ACK, 0, 1, b"abcd");
    assert_eq!(rig.read_all(flow), b"abcdefghi");
    assert_eq!(rig.sent().last(), Some(&sent(ACK, 1, 9, b"")));
    rig.pod(ACK, 3, 1, b"defg");
    assert_eq!(rig.read_all(flow), b"");
    assert_eq!(
        rig.sent(),
        [sent(ACK, 1, 9, b"")],
        "an old segment is acknowledged again"
    );
}

#[test]
fn a_lost_segment_is_sent_again() {
    let (mut rig, flow) = Rig::open(config());
    rig.write(flow, b"lost");
    rig.sent();
    let repeated = rig.pass(seconds(2));
    assert_eq!(
        repeated,
        vec![sent(ACK, 1, 0, b"lost"); 2],
        "after 1 and 2 seconds"
    );
    rig.pod(ACK, 0, 5, b"");
    assert_eq!(rig.pass(seconds(100)), []);
    assert_eq!((rig.counters().engaged, rig.counters().disengaged), (1, 1));
}

#[test]
fn three_equal_acks_are_a_loss() {
    let (mut rig, flow) = Rig::open(config());
    rig.write(flow, &[7; 3000]);
    let lost = [sent(ACK, 1, 0, &[7; 1460]), sent(ACK, 1461, 0, &[7; 1460])];
    assert_eq!(rig.sent()[..2], lost);
    for _ in 0..2 {
        rig.pod(ACK, 0, 1, b"");
    }
    assert_eq!(rig.sent(), []);
    rig.pod(ACK, 0, 1, b"");
    assert_eq!(rig.sent()[..2], lost, "from the first that is missing on");
    rig.pod(ACK, 0, 3001, b"");
    assert_eq!(rig.pass(seconds(100)), []);
    assert_eq!((rig.counters().engaged, rig.counters().disengaged), (1, 1));
}

#[test]
fn a_closed_window_is_respected_and_probed() {
    let (mut rig, flow) = Rig::open(config());
    rig.window = 0;
    rig.pod(ACK, 0, 1, b"");
    rig.write(flow, b"patience");
    let probes = rig.pass(seconds(4));
    assert!(
        !probes.is_empty() && probes.iter().all(|probe| *probe == sent(ACK, 1, 0, b"p")),
        "{probes:?}"
    );
    for _ in 0..40 {
        rig.pod(ACK, 0, 1, b"");
        rig.pass(seconds(5));
    }
    assert_eq!(rig.events(), [], "answered probes keep the flow");
    rig.window = 1000;
    rig.pod(ACK, 0, 1, b"");
    assert_eq!(rig.sent(), [sent(ACK, 1, 0, b"patience")]);
}

#[test]
fn a_full_ring_closes_the_window_and_reading_opens_it() {
    let (mut rig, flow) = Rig::open(config());
    for part in 0..16 {
        rig.pod(ACK, part * 1024, 1, &[7; 1024]);
    }
    let window_of = |frames: &[Vec<u8>]| {
        frames.last().map(|frame| {
            Segment::parse(IpPacket::parse(frame).unwrap().payload())
                .unwrap()
                .window
        })
    };
    assert_eq!(window_of(&rig.frames()), Some(0));
    assert_eq!((rig.counters().engaged, rig.stack.ring_bytes()), (0, 16 << 10));
    rig.pod(ACK, 16 * 1024, 1, b"too much");
    rig.frames();
    assert_eq!(rig.read_all(flow).len(), 16 * 1024);
    let window = window_of(&rig.frames());
    assert_eq!(window, Some(2048), "the ring was the limit: it grew");
    assert_eq!((rig.counters().rings_grown, rig.stack.ring_bytes()), (1, 0));
    assert_eq!(
        (rig.counters().engaged, rig.counters().disengaged),
        (1, 1),
        "for what was too much"
    );
    rig.pod(ACK, 16 * 1024, 1, b"now");
    assert_eq!(rig.read_all(flow), b"now");
}

#[test]
fn more_may_be_written_when_the_pod_has_room() {
    let (mut rig, flow) = Rig::open(config());
    rig.pod(ACK, 0, 1, b"unread");
    rig.window = 100;
    rig.pod(ACK, 6, 1, b"");
    assert_eq!(rig.stack.send(rig.now, flow, &[7; 100_000]), Ok(16 << 10));
    let bytes: usize = rig.sent().iter().map(|segment| segment.data.len()).sum();
    assert_eq!(bytes, 12_800, "what the window takes");
    rig.window = 8000; // a million, scaled
    rig.pod(ACK, 6, 1 + 12_800, b"");
    assert_eq!(rig.events().last(), Some(&Event::Writable { flow }));
    assert_eq!(
        rig.stack.send(rig.now, flow, &[7; 100_000]),
        Ok(100_000),
        "its window was what limited the flow"
    );
    assert_eq!(rig.read_all(flow), b"unread");
    assert_eq!((rig.counters().rings_grown, rig.counters().engaged), (2, 0));
}

#[test]
fn without_budget_flows_have_the_least() {
    let (mut rig, first) = Rig::open(Config {
        buffer_budget: 40_000,
        ..config()
    });
    rig.window = 8000;
    rig.pod(ACK, 0, 1, b"");
    assert_eq!(rig.stack.send(rig.now, first, &[7; 50_000]), Ok(16 << 10));
    assert_eq!(
        (rig.counters().growth_refused, rig.stack.ring_bytes()),
        (1, 16 << 10)
    );
    rig.sent();
    rig.pod(ACK, 0, 1, &[7; 16 << 10]);
    rig.sent();
    rig.events();
    assert_eq!(rig.stack.ring_bytes(), 32 << 10);
    // 7,232 bytes of the budget are left to another, and then the least.
    rig.pod.set_port(2);
    let second = rig.syn();
    rig.stack.accept(rig.now, second).unwrap();
    rig.learn_isn();
    rig.pod(ACK, 0, 1, b"");
    assert_eq!(rig.stack.send(rig.now, second, &[7; 50_000]), Ok(7232));
    rig.pod(ACK, 0, 1, &[7; 4096]);
    assert_eq!(
        (rig.counters().engaged, rig.stack.ring_bytes()),
        (0, 40_000 + 4096)
    );
    let frames = rig.frames();
    let last = IpPacket::parse(frames.last().unwrap()).unwrap();
    assert_eq!(
        Segment::parse(last.payload()).unwrap().window,
        ((16 << 10) - 4096) >> 5,
        "what was promised"
    );
    assert_eq!(rig.read_all(second).len(), 4096);
}

#[test]
fn a_flow_at_rest_holds_nothing_and_goes_on() {
    let (mut rig, flow) = Rig::open(config());
    rig.pod(ACK, 0, 1, b"hello");
    assert_eq!(rig.stack.ring_bytes(), 5);
    rig.read_all(flow);
    rig.write(flow, b"world");
    rig.sent();
    assert_eq!(rig.stack.ring_bytes(), 5);
    rig.pod(ACK, 5, 6, b"");
    rig.events();
    assert_eq!((rig.stack.ring_bytes(), rig.stack.flow_count()), (0, 1));
    assert_eq!(rig.pass(seconds(3)), []);
    assert_eq!(rig.stack.poll_timeout(), None, "it costs no timer");
    rig.pod(ACK, 5, 6, b"again");
    assert_eq!(rig.events(), [Event::Readable { flow }]);
    assert_eq!(rig.sent(), [sent(ACK, 6, 10, b"")]);
    assert_eq!(rig.read_all(flow), b"again");
    assert_eq!(rig.sent(), []);
    rig.write(flow, b"and back");
    assert_eq!(rig.sent(), [sent(ACK, 6, 10, b"and back")]);
    assert_eq!(rig.counters().engaged, 0);
}

#[test]
fn what_is_under_way_goes_to_the_engine_and_back() {
    let (mut rig, flow) = Rig::open(config());
    rig.pod(ACK, 0, 1, b"unread ");
    rig.write(flow, b"unacknowledged");
    assert_eq!(rig.sent(), [sent(ACK, 1, 7, b"unacknowledged")]);
    rig.pod(ACK, 11, 1, b"late");
    assert_eq!(rig.counters().engaged, 1);
    let answers = rig.sent();
    assert_eq!(
        answers.first(),
        Some(&sent(ACK, 15, 7, b"")),
        "with the number that comes next"
    );
    rig.pod(ACK, 7, 15, b"soon");
    assert_eq!(rig.read_all(flow), b"unread soonlate");
    assert_eq!(rig.sent().last(), Some(&sent(ACK, 15, 15, b"")));
    assert_eq!((rig.counters().disengaged, rig.stack.ring_bytes()), (1, 0));
    rig.pod(ACK, 15, 15, b"on");
    assert_eq!(rig.read_all(flow), b"on");
    assert_eq!(rig.counters().engaged, 1);
}

#[test]
fn bytes_are_handed_over_without_a_copy() {
    let (mut rig, flow) = Rig::open(config());
    rig.window = 8000;
    rig.pod(ACK, 0, 1, &[7; 10_000]);
    let all = rig.stack.recv_bytes(rig.now, flow, 4000).unwrap();
    let rest = rig.stack.recv_bytes(rig.now, flow, usize::MAX).unwrap();
    assert_eq!((all.len(), rest.len()), (4000, 6000));
    assert_eq!(all.as_ptr_range().end, rest.as_ptr(), "parts of one buffer");
    assert_eq!(rig.stack.recv_bytes(rig.now, flow, 1).unwrap().len(), 0);
    let mut data = Bytes::from(vec![8; 20_000]);
    assert_eq!(rig.stack.send_bytes(rig.now, flow, &mut data), Ok(20_000));
    assert!(data.is_empty());
    let bytes: Vec<u8> = rig.sent().into_iter().flat_map(|segment| segment.data).collect();
    assert_eq!(bytes, [8; 20_000]);
}

#[test]
fn frames_are_kept_and_sent_in_parts() {
    let (mut rig, flow) = Rig::open(config());
    rig.window = 8000;
    let long = rig.frame(ACK, 0, 1, &[7; 10_000]);
    rig.stack.handle_frame_bytes(rig.now, &long, RxChecksum::Partial);
    let short = rig.frame(ACK, 10_000, 1, b"short");
    rig.stack.handle_frame_bytes(rig.now, &short, RxChecksum::Partial);
    assert!(short.try_into_mut().is_ok(), "was not kept");
    let data = rig.stack.recv_bytes(rig.now, flow, usize::MAX).unwrap();
    assert_eq!(data.as_ptr(), long[40..].as_ptr(), "the frame's own bytes");
    assert_eq!(rig.read_all(flow), b"short");
    assert!(long.try_into_mut().is_err(), "is kept as long as its bytes are");
    assert_eq!(data, [7; 10_000][..]);
    rig.sent();

    rig.write(flow, b"in front ");
    let body = Bytes::from(vec![8; 1000]);
    let shared = Bytes::from(vec![9; 3000]);
    for mut part in [shared.clone(), body.clone(), shared.clone()] {
        let length = part.len();
        assert_eq!(rig.stack.send_bytes(rig.now, flow, &mut part), Ok(length));
    }
    let mut packet = PacketParts::default();
    let (mut stream, mut by_reference) = (Vec::new(), 0);
    while rig.stack.poll_transmit_parts(rig.now, &mut packet).is_some() {
        let frame: Vec<u8> = packet.slices().flatten().copied().collect();
        let whole = IpPacket::parse(&frame).unwrap();
        assert_eq!(whole.bytes().len(), frame.len());
        by_reference += packet
            .slices()
            .filter(|part| shared.as_ptr_range().contains(&part.as_ptr()))
            .map(|part| part.len())
            .sum::<usize>();
        stream.extend(rig.read(&frame).data);
    }
    let expected = [&b"in front "[..], &shared, &body, &shared].concat();
    assert_eq!((stream, by_reference), (expected, 6000));
}

#[test]
fn half_closed_flows_rest_too() {
    let (mut rig, flow) = Rig::open(config());
    rig.pod(FIN | ACK, 0, 1, b"");
    rig.sent();
    rig.events();
    rig.pass(seconds(3));
    assert_eq!(rig.stack.ring_bytes(), 0);
    rig.write(flow, b"late answer");
    assert_eq!(rig.sent(), [sent(ACK, 1, 1, b"late answer")]);
    rig.pod(ACK, 1, 12, b"");
    rig.shutdown(flow);
    assert_eq!(rig.sent(), [sent(FIN | ACK, 12, 1, b"")]);
    rig.pod(ACK, 1, 13, b"");
    assert_eq!(rig.events(), [closed(flow, CloseReason::Fin, ClosedBy::Pod)]);

    let (mut rig, flow) = Rig::open(config());
    rig.write(flow, b"request");
    rig.shutdown(flow);
    rig.sent();
    rig.pod(ACK, 0, 9, b"");
    rig.pass(seconds(3));
    assert_eq!(rig.stack.ring_bytes(), 0);
    rig.pod(FIN | ACK, 0, 9, b"late");
    assert_eq!(rig.sent(), [sent(ACK, 9, 5, b"")]);
    assert_eq!(rig.read_all(flow), b"late");
    rig.sent();
    assert_eq!(
        rig.events().last(),
        Some(&closed(flow, CloseReason::Fin, ClosedBy::Agent))
    );
}

#[test]
fn a_flow_at_rest_is_reset_by_either_end() {
    let (mut rig, flow) = Rig::open(config());
    rig.pass(seconds(3));
    rig.pod(RST, 0, 0, b"");
    assert_eq!(rig.events(), [closed(flow, CloseReason::Reset, ClosedBy::Pod)]);
    let (mut rig, flow) = Rig::open(config());
    rig.pass(seconds(3));
    rig.stack.abort(rig.now, flow);
    assert_eq!(rig.sent(), [sent(RST | ACK, 1, 0, b"")]);
    assert_eq!(
        (rig.events().len(), rig.stack.flow_count(), rig.stack.ring_bytes()),
        (1, 0, 0)
    );
}

#[test]
fn a_flow_at_rest_keeps_the_window_it_promised() {
    let (mut rig, flow) = Rig::open(config());
    rig.pod(ACK, 0, 1, &[7; 16_000]);
    rig.read_all(flow); // so it may have 64 KiB, and says so
    rig.sent();
    rig.events();
    rig.pass(seconds(3));
    assert_eq!(rig.stack.ring_bytes(), 0);
    rig.pod(ACK, 16_000, 1, &[8; 60_000]);
    assert_eq!(
        rig.read_all(flow).len(),
        60_000,
        "all that it was told there's room for"
    );
    assert_eq!(rig.counters().windows_shrunk, 0);
}

#[test]
fn keep_alive_probes_are_sent_and_answered() {
    let (mut rig, flow) = Rig::open(Config {
        keep_alive: Some(seconds(10)),
        ..config()
    });
    let probes = rig.pass(seconds(11));
    assert_eq!(probes, [sent(ACK, 0, 0, b"")]);
    rig.pod(ACK, 0, 1, b"");
    assert_eq!(rig.pass(seconds(9)), []);
    rig.pod(ACK, -1, 1, b"");
    assert_eq!(
        rig.sent(),
        [sent(ACK, 1, 0, b"")],
        "a probe of the pod is answered"
    );
    assert_eq!(rig.counters().engaged, 0);
    let probes = rig.pass(seconds(80));
    assert_eq!(probes.last(), Some(&sent(RST | ACK, 1, 0, b"")));
    assert_eq!(
        rig.events(),
        [closed(flow, CloseReason::TimedOut, ClosedBy::Network)]
    );
}

#[test]
fn readable_and_writable_are_merged() {
    let (mut rig, flow) = Rig::open(config());
    for at in 0..50 {
        rig.pod(ACK, at, 1, b"x");
    }
    assert_eq!(rig.events(), [Event::Readable { flow }]);
    assert_eq!(rig.sent(), [sent(ACK, 1, 50, b"")], "one answer for a batch");
}

#[test]
fn ipv6_with_extension_headers_is_the_same() {
    let mut rig = Rig::new(config());
    rig.pod = "[fd00::1]:1000".parse().unwrap();
    rig.remote = "[fd00::99]:443".parse().unwrap();
    let flow = rig.syn();
    rig.stack.accept(rig.now, flow).unwrap();
    rig.learn_isn();
    let mut frame = Vec::new();
    let ack = rig.our_isn.wrapping_add(1);
    let template = Template {
        src: rig.pod,
        dst: rig.remote,
        seq: FIRST,
        ack,
        flags: ACK,
        window: 1000,
        options: Options::default(),
    };
    template.emit(&mut frame, b"hello");
    // Destination options in between: six bytes of padding.
    let length = frame.len() - ip::V6_HEADER + 8;
    frame[4..6].copy_from_slice(&(length as u16).to_be_bytes());
    frame[6] = 60;
    frame.splice(ip::V6_HEADER..ip::V6_HEADER, [ip::TCP, 0, 1, 4, 0, 0, 0, 0]);
    rig.stack.handle_frame(rig.now, &frame, RxChecksum::Partial);
    assert_eq!(rig.read_all(flow), b"hello");
    assert_eq!(rig.sent(), [sent(ACK, 1, 5, b"")]);
}

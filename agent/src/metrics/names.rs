//! Every metric by name. The kind follows from the name: what ends in `_total` is a counter, all else a gauge.

/// A metric's name without the prefix `adit_`, and what it means.
pub(crate) type Name = (&'static str, &'static str);

/// All, in order of name.
pub(crate) const NAMES: &[Name] = &[
    ("bad_connects_total", "CONNECT requests refused unread, by reason"),
    ("build_info", "1, with the version as a label"),
    (
        "busy_polls_total",
        "Looks for work before a worker slept, by outcome: paid or vain",
    ),
    (
        "ca_certificates_refused_total",
        "Certificates that the signer refused, by gRPC code",
    ),
    (
        "ca_certificates_signed_total",
        "Certificates that the signer signed",
    ),
    (
        "connections_accepted_total",
        "Connections from other nodes, by what their first bytes said",
    ),
    (
        "connections_closed_total",
        "Connections from other nodes that no worker could take",
    ),
    (
        "flow_records_missed_total",
        "Flow records that a slow reader missed",
    ),
    ("flows_closed_total", "Flows that ended, by reason"),
    ("flows_inbound_total", "Flows to this node's pods"),
    ("flows_live", "Flows that are open"),
    ("flows_outbound_total", "Flows from this node's pods"),
    ("flows_passing", "Open flows that pass packet by packet"),
    ("flows_refused_total", "Flows that were refused, by reason"),
    ("flows_relayed", "Open flows that end in the agent"),
    (
        "hellos_awaited",
        "Connections from other nodes whose first bytes are awaited",
    ),
    (
        "helper_admissions_expired_total",
        "New pods that waited for the agent in vain",
    ),
    (
        "helper_clients_of_other_users_total",
        "Connections to the helper closed because another user made them",
    ),
    (
        "helper_clients_over_limit_total",
        "Connections to the helper closed because its table was full",
    ),
    (
        "helper_clients_total",
        "Connections to the helper that were served",
    ),
    (
        "helper_conflist_healed_total",
        "Times that the plugin was written into the node's CNI list",
    ),
    (
        "helper_joins_failed_total",
        "Pods that could not be put behind the agent",
    ),
    (
        "helper_malformed_messages_total",
        "Connections to the helper closed because of a message that is none",
    ),
    ("helper_pods_joined_total", "Pods put behind the agent"),
    (
        "helper_pods_left_alone_total",
        "New pods that started outside the mesh",
    ),
    ("helper_pods_left_total", "Pods given their own interface back"),
    (
        "helper_pods_vanished_total",
        "Pods that ended without a word and were cleared away",
    ),
    (
        "helper_pods_without_tun_total",
        "Pods that joined by veth pairs, since no TUN device was to be had",
    ),
    (
        "helper_replies_not_read_total",
        "Connections to the helper closed because replies weren't read",
    ),
    (
        "helper_requests_refused_total",
        "Requests that the helper refused",
    ),
    ("helper_silence_seconds", "Since the node helper last answered"),
    (
        "http_connections_evicted_total",
        "Connections to this endpoint closed because newer ones came",
    ),
    (
        "kubernetes_discovery_failed",
        "1 while it isn't known which kinds the API server has",
    ),
    (
        "kubernetes_failures_total",
        "Requests to the API server that failed, by kind",
    ),
    ("kubernetes_listed", "1 once all objects of the kind were listed"),
    (
        "kubernetes_lists_total",
        "Lists of a kind; more than one when a watch could not go on",
    ),
    (
        "kubernetes_objects_rejected",
        "Objects left out now, since they can't be understood; 64 at most",
    ),
    (
        "kubernetes_objects_rejected_total",
        "Objects that could not be understood",
    ),
    (
        "kubernetes_watch_age_seconds",
        "Since the kind was last known to be current; 0 while its watch is open",
    ),
    (
        "link_asides_total",
        "Frames of pods that were talk of the link, and needed no answer",
    ),
    (
        "link_frames_invalid_total",
        "Frames of pods that were no frames of the link",
    ),
    (
        "link_frames_overflowed_total",
        "Frames of pods that found no room in a packet socket; their senders repeat them",
    ),
    (
        "link_frames_undescribed_total",
        "Frames of pods that the kernel had no virtio-net header for, and dropped",
    ),
    (
        "link_packets_refused_total",
        "Packets to pods that their device didn't take: it had no room, mostly",
    ),
    (
        "link_packets_summed_total",
        "Packets to pods that were summed in the agent, since the kernel refused to",
    ),
    (
        "link_questions_answered_total",
        "Questions of pods about the link addresses of others",
    ),
    ("links", "Devices that are served, by kind: packet or tun"),
    (
        "listeners_failed_total",
        "Listeners that a captured pod should have and hasn't",
    ),
    (
        "netstack_acks_released_total",
        "ACKs that waited for bytes to go along with, in vain",
    ),
    (
        "netstack_answers_dropped_total",
        "Answers to packets that found no room",
    ),
    ("netstack_bytes_in_total", "Bytes of streams from pods"),
    ("netstack_bytes_out_total", "Bytes of streams to pods"),
    ("netstack_disengaged_total", "Flows handed back to the fast path"),
    (
        "netstack_dropped_total",
        "Packets from pods that were dropped, by reason",
    ),
    ("netstack_engaged_total", "Flows that needed the full TCP engine"),
    (
        "netstack_established_total",
        "TCP connections of pods that were established",
    ),
    ("netstack_flows", "TCP flows of pods"),
    ("netstack_frames_in_total", "Frames from pods"),
    ("netstack_frames_out_total", "Frames to pods"),
    (
        "netstack_growth_refused_total",
        "Buffers that could not grow within the pod's budget",
    ),
    ("netstack_resets_sent_total", "Resets sent to pods"),
    ("netstack_ring_bytes", "Bytes of memory in flows' buffers"),
    ("netstack_rings_grown_total", "Buffers that grew"),
    ("netstack_syns_held", "SYNs that wait for a verdict"),
    ("netstack_syns_held_total", "SYNs that waited for a verdict"),
    (
        "netstack_syns_over_limit_total",
        "SYNs dropped because too many were held",
    ),
    (
        "netstack_syns_repeated_total",
        "SYNs repeated while they were held",
    ),
    (
        "netstack_table_full_resets_total",
        "Connections refused because a pod's table was full",
    ),
    (
        "netstack_windows_shrunk_total",
        "Times that a window was made smaller for the budget's sake",
    ),
    (
        "packets_dropped_total",
        "Packets dropped outside of a netstack, by reason",
    ),
    (
        "passed_packets_total",
        "Packets that passed, by the side that they came from",
    ),
    (
        "passing_bytes_total",
        "Bytes of packets that passed, by the side that they came from",
    ),
    (
        "passing_dropped_total",
        "Packets of passing flows that were dropped, by side and reason",
    ),
    (
        "passing_frames_overflowed_total",
        "Frames of the agent's own that found no room",
    ),
    ("pods", "Pods that are captured"),
    ("pods_wanted", "Pods of the node that belong in the mesh"),
    ("ready", "1 while /healthz/ready says so"),
    (
        "snapshot_age_seconds",
        "Since the mesh in force was last known to be what the API says; 0 while every watch is open",
    ),
    (
        "svid_next_expiry_timestamp_seconds",
        "When the first of the SVIDs runs out, in Unix time",
    ),
    (
        "svid_renewals_failing",
        "Identities whose last request for an SVID failed",
    ),
    ("svids", "Identities with a valid SVID"),
    ("svids_wanted", "Identities that need an SVID"),
    ("tunnels", "Tunnels to peers"),
    (
        "tunnels_connect_failed_total",
        "Tunnels to peers that could not be set up, whether or not a flow waited",
    ),
    ("tunnels_connected_total", "Tunnels to peers that were set up"),
    ("tunnels_connecting", "Tunnels to peers that are being set up"),
    ("tunnels_ended_total", "Tunnels of peers that ended, by reason"),
    (
        "tunnels_evicted_total",
        "Idle tunnels closed to make room for others",
    ),
    (
        "tunnels_failed_total",
        "Tunnels that could not be opened, by reason",
    ),
    (
        "tunnels_over_limit_total",
        "Flows refused because no more tunnels may be had",
    ),
    (
        "tunnels_retried_total",
        "Flows that were tried again in another tunnel",
    ),
    (
        "tunnels_spread_total",
        "Tunnels begun beside others to spread bulk over",
    ),
    ("tunnels_streams", "Flows in tunnels to peers"),
    (
        "worker_mailbox_overflows_total",
        "Commands between workers that found no room",
    ),
    (
        "worker_silence_seconds",
        "Since a worker's last heartbeat, once a second",
    ),
];

use std::collections::BTreeMap;

use adit_flow::DropReason;
use adit_netstack::Netstack;

/// Adds one netstack's counters and sizes to `into`, under the names that metrics use.
pub(crate) fn collect_netstack(stack: &Netstack, into: &mut BTreeMap<String, u64>) {
    let counters = stack.counters();
    let plain = [
        ("netstack_acks_released_total", counters.acks_released),
        ("netstack_answers_dropped_total", counters.answers_dropped),
        ("netstack_bytes_in_total", counters.bytes_in),
        ("netstack_bytes_out_total", counters.bytes_out),
        ("netstack_disengaged_total", counters.disengaged),
        ("netstack_engaged_total", counters.engaged),
        ("netstack_established_total", counters.established),
        ("netstack_flows", stack.flow_count() as u64),
        ("netstack_frames_in_total", counters.frames_in),
        ("netstack_frames_out_total", counters.frames_out),
        ("netstack_growth_refused_total", counters.growth_refused),
        ("netstack_resets_sent_total", counters.resets_sent),
        ("netstack_ring_bytes", stack.ring_bytes() as u64),
        ("netstack_rings_grown_total", counters.rings_grown),
        ("netstack_syns_held", stack.held_count() as u64),
        ("netstack_syns_held_total", counters.syns_held),
        ("netstack_syns_over_limit_total", counters.syns_over_limit),
        ("netstack_syns_repeated_total", counters.syns_repeated),
        ("netstack_table_full_resets_total", counters.table_full_resets),
        ("netstack_windows_shrunk_total", counters.windows_shrunk),
    ];
    for (name, value) in plain {
        *into.entry(name.to_owned()).or_default() += value;
    }
    for reason in DropReason::ALL {
        *into
            .entry(format!("netstack_dropped_total{{reason={reason}}}"))
            .or_default() += counters.dropped(*reason);
    }
}

#[cfg(test)]
mod tests {
    use adit_netstack::Config;

    use super::*;
    use crate::metrics::NAMES;

    #[test]
    fn every_count_of_a_netstack_is_in_the_table_of_metrics() {
        let config = Config {
            addresses: vec!["10.77.0.2".parse().unwrap()],
            ..Config::default()
        };
        let stack = Netstack::new(config, 1, std::time::Instant::now());
        let mut counts = BTreeMap::new();
        collect_netstack(&stack, &mut counts);
        for name in counts.keys() {
            let name = name.split('{').next().unwrap_or_default();
            assert!(NAMES.iter().any(|(known, _)| *known == name), "{name}");
        }
        let ours = NAMES.iter().filter(|(name, _)| name.starts_with("netstack_"));
        // One family for all reasons of drops.
        assert_eq!(ours.count() - 1 + DropReason::ALL.len(), counts.len());
    }
}

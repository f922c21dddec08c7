use std::collections::BTreeMap;

use adit_link::{LinkKind, Queue, QueueCounters};

/// Adds one queue of a device and its counters to `into`, under the names that metrics use.
pub(crate) fn collect_queue(queue: &Queue, into: &mut BTreeMap<String, u64>) {
    collect(queue.kind(), queue.counters(), into);
}

fn collect(kind: LinkKind, counters: QueueCounters, into: &mut BTreeMap<String, u64>) {
    let QueueCounters {
        questions_answered,
        asides,
        invalid,
        overflowed,
        refused,
        summed,
        undescribed,
    } = counters;
    *into.entry(format!("links{{kind={kind}}}")).or_default() += 1;
    for (name, value) in [
        ("link_asides_total", asides),
        ("link_frames_invalid_total", invalid),
        ("link_frames_overflowed_total", overflowed),
        ("link_frames_undescribed_total", undescribed),
        ("link_packets_refused_total", refused),
        ("link_packets_summed_total", summed),
        ("link_questions_answered_total", questions_answered),
    ] {
        *into.entry(name.to_owned()).or_default() += value;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::NAMES;

    #[test]
    fn every_count_of_a_queue_is_in_the_table_of_metrics() {
        let mut counts = BTreeMap::new();
        let counters = QueueCounters {
            overflowed: 3,
            ..QueueCounters::default()
        };
        for kind in [LinkKind::Packet, LinkKind::Tun] {
            collect(kind, counters, &mut counts);
        }
        for name in counts.keys() {
            let name = name.split('{').next().unwrap_or_default();
            assert!(NAMES.iter().any(|(known, _)| *known == name), "{name}");
        }
        assert_eq!(counts["link_frames_overflowed_total"], 6);
        assert_eq!(counts["links{kind=packet}"], 1);
    }
}

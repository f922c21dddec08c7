use std::collections::BTreeMap;

use adit_tunnel::PoolStats;

/// Adds what a worker's pool of tunnels holds and did to `into`, under the names that metrics use. Its tunnels are
/// counted as `tunnels` by whoever has all workers.
pub(crate) fn collect_pool(stats: PoolStats, into: &mut BTreeMap<String, u64>) {
    let PoolStats {
        tunnels: _,
        connecting,
        streams,
        connected_total,
        connect_failed_total,
        spread_total,
        evicted_total,
        retried_total,
        over_limit_total,
    } = stats;
    for (name, value) in [
        ("tunnels_connect_failed_total", connect_failed_total),
        ("tunnels_connected_total", connected_total),
        ("tunnels_connecting", connecting as u64),
        ("tunnels_evicted_total", evicted_total),
        ("tunnels_over_limit_total", over_limit_total),
        ("tunnels_retried_total", retried_total),
        ("tunnels_spread_total", spread_total),
        ("tunnels_streams", streams as u64),
    ] {
        *into.entry(name.to_owned()).or_default() += value;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::NAMES;

    #[test]
    fn every_count_of_a_pool_is_in_the_table_of_metrics() {
        let mut counts = BTreeMap::new();
        collect_pool(PoolStats::default(), &mut counts);
        for name in counts.keys() {
            assert!(NAMES.iter().any(|(known, _)| known == name), "{name}");
        }
    }
}

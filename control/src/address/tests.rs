use proptest::prelude::*;

use super::*;

fn names(count: usize) -> Vec<WorkloadName> {
    (0..count)
        .map(|index| WorkloadName::new("shop", format!("web-{index}")))
        .collect()
}

fn small(pods: &str, services: &str) -> Ranges {
    let range = |text: &str| AddressRange {
        v4: Some(text.parse().unwrap()),
        v6: None,
    };
    Ranges {
        pods: range(pods),
        services: range(services),
    }
}

#[test]
fn the_addresses_of_a_name_are_part_of_the_format() {
    // Two versions of adit must agree: if this fails, agents of different versions can't share a mesh.
    let allocation = Allocation::new(&Ranges::default(), names(1), names(1)).unwrap();
    let name = WorkloadName::new("shop", "web-0");
    let text = |addresses: &[IpAddr]| {
        addresses
            .iter()
            .map(IpAddr::to_string)
            .collect::<Vec<_>>()
            .join(" ")
    };
    assert_eq!(
        text(allocation.workload(&name)),
        "10.77.40.205 fd77:6164:6974:77::28cd"
    );
    assert_eq!(
        text(allocation.service(&name)),
        "10.78.188.96 fd77:6164:6974:78::bc60"
    );
}

#[test]
fn the_services_range_begins_with_the_dns_responder() {
    let dns: Vec<String> = Ranges::default().dns().iter().map(IpAddr::to_string).collect();
    assert_eq!(dns, ["10.78.0.10", "fd77:6164:6974:78::a"]);
}

#[test]
fn a_full_range_is_used_to_the_last_address() {
    let ranges = small("10.0.0.0/27", "10.0.1.0/27");
    let count = ranges.file_slots().len();
    assert_eq!(count, 14);
    let allocation = Allocation::new(&ranges, names(count), []).unwrap();
    let used: BTreeSet<IpAddr> = names(count)
        .iter()
        .map(|name| allocation.workload(name)[0])
        .collect();
    assert_eq!(used.len(), count);
    let full = Allocation::new(&ranges, names(count + 1), []).unwrap_err();
    assert_eq!((full.needed, full.available), (15, 14));
}

#[test]
fn nodes_share_the_upper_half_without_overlap() {
    for ranges in [
        Ranges::default(),
        small("10.0.0.0/24", "10.0.1.0/24"),
        small("10.0.0.0/27", "10.0.1.0/27"),
    ] {
        let mut seen = BTreeSet::new();
        for index in 0..ranges.max_nodes() {
            let share = ranges.joined_slots(index);
            assert!(
                share.len() as u32 >= MIN_SHARE - 1 && share.start >= ranges.file_slots().end,
                "{share:?}"
            );
            assert!(share.end < ranges.pods.slots());
            assert!(share.into_iter().all(|slot| seen.insert(slot)));
        }
    }
    assert_eq!(Ranges::default().max_nodes(), 64);
}

#[test]
fn joining_goes_on_until_the_share_is_used_up() {
    let ranges = small("10.0.0.0/27", "10.0.1.0/27");
    let mut taken = Vec::new();
    while let Ok(addresses) = joined(&ranges, 0, &WorkloadName::new("shop", "debug"), taken.clone()) {
        taken.extend(addresses);
    }
    let distinct: BTreeSet<&IpAddr> = taken.iter().collect();
    assert_eq!((taken.len(), distinct.len()), (15, 15));
    assert!(taken.iter().all(|address| ranges.pods.contains(*address)));
}

fn some_names() -> impl Strategy<Value = Vec<WorkloadName>> {
    prop::collection::btree_set(("[a-c]{1,2}", "[a-z]{1,4}"), 0..14)
        .prop_map(|names| {
            names
                .into_iter()
                .map(|(namespace, name)| WorkloadName::new(namespace, name))
                .collect()
        })
        .prop_shuffle()
}

proptest! {
    /// In a range so small that nearly every name collides.
    #[test]
    fn nobody_shares_an_address(pods in some_names(), services in some_names()) {
        let ranges = small("10.0.0.0/27", "10.0.1.0/27");
        let allocation = Allocation::new(&ranges, pods.clone(), services.clone()).unwrap();
        let mut seen: BTreeSet<IpAddr> = ranges.dns().into_iter().chain(ranges.gateway()).collect();
        for name in &pods {
            for address in allocation.workload(name) {
                prop_assert!(ranges.pods.contains(*address) && seen.insert(*address));
            }
        }
        for name in &services {
            for address in allocation.service(name) {
                prop_assert!(ranges.services.contains(*address) && seen.insert(*address));
            }
        }
    }

    #[test]
    fn adding_at_the_end_moves_nobody(names in some_names(), kept in any::<prop::sample::Index>()) {
        let ranges = small("10.0.0.0/27", "10.0.1.0/27");
        let kept = kept.index(names.len() + 1);
        let before = Allocation::new(&ranges, names[..kept].to_vec(), []).unwrap();
        let after = Allocation::new(&ranges, names.clone(), []).unwrap();
        for name in &names[..kept] {
            prop_assert_eq!(before.workload(name), after.workload(name));
        }
    }

    /// Elsewhere, one that comes moves at most those that it collides with: in the default range, almost always none.
    #[test]
    fn adding_anywhere_moves_few(names in some_names(), place in any::<prop::sample::Index>()) {
        let ranges = Ranges::default();
        let before = Allocation::new(&ranges, names.clone(), []).unwrap();
        let mut more = names.clone();
        more.insert(place.index(names.len() + 1), WorkloadName::new("new", "comer"));
        let after = Allocation::new(&ranges, more, []).unwrap();
        let moved = names.iter().filter(|name| before.workload(name) != after.workload(name)).count();
        prop_assert!(moved <= 1, "{} moved", moved);
    }
}

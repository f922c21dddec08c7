//! Entries for `fuzz/`: what an API server could send, up to the model.

use adit_identity::TrustDomain;

use super::kind::{BUILT_IN, FAMILIES, Kind};
use super::list_watch::{Change, Event, Item, What};
use super::model::Model;
use super::object::{self, Object};

/// Lines of a watch, each after a byte that chooses its kind. Whatever they are, none stops the model; and an object that
/// comes twice changes nothing the second time.
///
/// # Panics
/// When that doesn't hold.
pub fn watch_lines(bytes: &[u8]) {
    let domain: TrustDomain = "demo.local".parse().expect("it's one");
    let families = FAMILIES
        .iter()
        .flat_map(|family| family.kinds_of(family.served_as[0]));
    let kinds: Vec<Kind> = BUILT_IN.into_iter().chain(families).collect();
    let mut model = Model::new("here", domain.clone());
    for line in bytes.split(|byte| *byte == b'\n') {
        let Some((kind, line)) = line.split_first() else {
            continue;
        };
        let kind = kinds[usize::from(*kind) % kinds.len()];
        let Ok(event) = serde_json::from_slice::<Event<'_>>(line) else {
            continue;
        };
        let json = event.object.get();
        let _ = object::placed(json, &domain);
        let read = || -> Option<Change<Object>> {
            let key = object::key(json).ok()?;
            let object = match event.kind {
                "DELETED" => None,
                _ => object::read(kind, json, &domain).ok().flatten(),
            };
            let what = What::Changed(Item { key, object });
            Some(Change { kind, what })
        };
        if let (Some(first), Some(second)) = (read(), read()) {
            model.apply(first);
            assert!(!model.apply(second), "the same object is no change");
        }
    }
    let state = model.state();
    for pod in &state.wanted {
        assert!(!pod.addresses.is_empty(), "a pod is looked for by its addresses");
    }
}

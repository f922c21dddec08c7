//! Every example in the repository is a mesh file that loads without a word.

use std::path::Path;

#[test]
fn every_example_loads_without_a_finding() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    let beside = folder.read_dir().unwrap().map(|entry| entry.unwrap().path());
    let mut seen = 0;
    for path in beside.chain([folder.join("ci/e2e.yaml")]) {
        if path.extension().is_none_or(|end| end != "yaml") {
            continue;
        }
        match adit_control::load(&path) {
            Ok(loaded) => assert!(loaded.warnings.is_empty(), "{}", loaded.warnings),
            Err(report) => panic!("{report}"),
        }
        seen += 1;
    }
    assert!(seen > 0, "no example was found in {}", folder.display());
}

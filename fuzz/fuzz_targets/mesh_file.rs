//! Any text as a mesh file: it is taken or refused with a report that can be shown, and what is taken means the same
//! when it is written and read again.

#![no_main]

use std::path::Path;

use adit_control::{Style, View, build, decode, parse};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let path = Path::new("mesh.yaml");
    let loaded = match parse(path, text) {
        Ok(loaded) => loaded,
        Err(report) => {
            assert!(report.has_errors());
            report.render(Style::Plain);
            report.render(Style::Color);
            return;
        }
    };
    loaded.warnings.render(Style::Plain);
    build(
        &loaded.mesh,
        View {
            node: None,
            ready: &|_| true,
            joined: &[],
            generation: 0,
        },
    );
    let file = decode(path, text).expect("what can be parsed can be decoded");
    let again = parse(path, &file.to_json()).unwrap_or_else(|report| panic!("{report}"));
    assert_eq!(again.mesh, loaded.mesh);
});

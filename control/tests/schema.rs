//! The published schema is the one that the types make.

use std::path::Path;

/// `ADIT_UPDATE_SCHEMA=1 cargo test -p adit-control --test schema` writes it anew.
#[test]
fn the_published_schema_is_up_to_date() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/mesh.schema.json");
    let made = adit_control::json_schema();
    if std::env::var_os("ADIT_UPDATE_SCHEMA").is_some() {
        std::fs::write(&path, &made).unwrap();
    }
    let published = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        made == published,
        "{} is not what the types make: run this test with ADIT_UPDATE_SCHEMA=1",
        path.display()
    );
}

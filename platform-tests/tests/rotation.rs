//! Certificates that live for ten seconds, and a transfer that lives longer.

use adit_platform_tests::load::Stream;
use adit_platform_tests::{MeshSpec, Sandbox, UpOptions, Workload, configured};
use serde::Deserialize;
use std::collections::BTreeSet;
use std::time::Duration;

#[derive(Debug, Deserialize)]
struct Svid {
    identity: String,
    serial: String,
    rotations: u64,
}

#[test]
fn a_long_transfer_outlives_its_certificates() {
    let seconds = configured("ADIT_TEST_ROTATION_SECONDS", 60).to_string();
    let sandbox = Sandbox::new();
    let spec = MeshSpec::new("rotate").workload(Workload::load_server(&sandbox, "server", 7000));
    let arguments = vec!["--svid-ttl".to_owned(), "10s".to_owned()];
    let mesh = sandbox.up_with(
        &spec,
        UpOptions {
            arguments,
            ..UpOptions::default()
        },
    );
    mesh.wait_ready();
    let serials = || -> (BTreeSet<String>, u64) {
        let svids: Vec<Svid> = serde_json::from_str(&mesh.adit(["identity", "--json"]).stdout()).unwrap();
        let server = svids
            .into_iter()
            .filter(|svid| svid.identity.ends_with("/sa/server"))
            .collect::<Vec<_>>();
        assert!(!server.is_empty(), "no certificate of the server");
        (
            server.iter().map(|svid| svid.serial.clone()).collect(),
            server[0].rotations,
        )
    };
    let (before, _) = serials();
    let load = sandbox.load();
    let client = mesh.spawn_as(
        "test/client",
        [
            &load,
            "stream",
            "server:7000",
            "--seconds",
            &seconds,
            "--unchecked",
        ],
    );
    let found: Stream = client.finish(Duration::from_secs(300)).json();
    assert!(found.bytes > 0);
    let (after, rotations) = serials();
    assert!(
        before.is_disjoint(&after) && rotations >= 2,
        "{before:?} {after:?} {rotations}\n{}",
        mesh.logs()
    );
    let argv = [&load, "stream", "server:7000", "--bytes", "1000000"];
    let again: Stream = mesh.run_as("test/other", argv).json();
    assert_eq!(again.sent_hashes, again.received_hashes);
}

//! Many connections: idle ones, busy ones, and very many one after another.

use std::time::Duration;

use adit_platform_tests::load::{Active, Connect, Idle};
use adit_platform_tests::{Mesh, MeshSpec, Sandbox, Workload, configured, wait_until};

const PORT: u16 = 7000;
const LIMIT: Duration = Duration::from_secs(300);

fn up(sandbox: &Sandbox) -> Mesh<'_> {
    let mesh = sandbox.up(MeshSpec::new("scale").workload(Workload::load_server(sandbox, "server", PORT)));
    mesh.wait_ready();
    mesh
}

#[test]
fn idle_connections_stay_usable_and_are_cheap() {
    /// For both ends of a connection, which one agent serves here.
    const MOST: u64 = 32 << 10;
    let count = configured("ADIT_TEST_IDLE", 10_000);
    let sandbox = Sandbox::new();
    let mesh = up(&sandbox);
    let load = sandbox.load();
    // Whatever the first connections make once isn't theirs.
    mesh.run_as("test/client", [&load, "connect", "server:7000", "--count", "50"])
        .stdout();
    let before = mesh.agent_usage();
    let count_text = count.to_string();
    let mut client = mesh.spawn_as(
        "test/client",
        [
            &load,
            "idle",
            "server:7000",
            "--target-ports",
            "16",
            "--count",
            &count_text,
            "--hold",
            "200",
        ],
    );
    client.wait_for("opened", LIMIT);
    let with = mesh.agent_usage();
    let each = with.anonymous.saturating_sub(before.anonymous) / count;
    eprintln!("{count} idle connections: {each} bytes each, both ends; {with:?}, before {before:?}");
    client.say("enough");
    let found: Idle = client.finish(LIMIT).json();
    assert_eq!((found.opened, found.usable), (count, count), "{}", mesh.logs());
    assert!(
        each <= MOST,
        "{each} bytes for each idle connection, at most {MOST} wanted"
    );
}

#[test]
fn busy_connections_carry_correct_data_at_once() {
    let count = configured("ADIT_TEST_ACTIVE", 1000);
    let sandbox = Sandbox::new();
    let mesh = up(&sandbox);
    let count_text = count.to_string();
    let load = sandbox.load();
    let found: Active = mesh
        .run_as(
            "test/client",
            [
                &load,
                "active",
                "server:7000",
                "--target-ports",
                "16",
                "--count",
                &count_text,
            ],
        )
        .json();
    assert_eq!((found.opened, found.correct), (count, count), "{}", mesh.logs());
}

#[test]
fn connections_that_are_closed_leave_no_memory() {
    /// What allocators keep differs from run to run; a leak of 100 bytes a connection would show in 100,000.
    const SLACK: u64 = 4 << 20;
    let count = configured("ADIT_TEST_CHURN", 80_000);
    let sandbox = Sandbox::new();
    let mesh = up(&sandbox);
    let load = sandbox.load();
    let churn = |count: u64| -> Connect {
        let count = count.to_string();
        let argv = [
            &load,
            "connect",
            "server:7000",
            "--target-ports",
            "16",
            "--parallel",
            "4",
            "--count",
            &count,
        ];
        mesh.spawn_as("test/client", argv).finish(LIMIT).json()
    };
    // Tables and pools reach their size, and the TIME-WAIT records their number: ten seconds of closed flows, so as many
    // as the machine makes in that time. Only a run of the same length is sure to have had as many.
    churn(count);
    let before = mesh.agent_usage().anonymous;
    let found = churn(count);
    assert_eq!(found.failed, 0, "{found:?}\n{}", mesh.logs());
    eprintln!("{found:?}");
    let grown = || mesh.agent_usage().anonymous.saturating_sub(before);
    wait_until(
        "the agent's memory to be what it was",
        Duration::from_secs(90),
        || (grown() <= SLACK).then_some(()),
        || {
            format!(
                "it grew by {} bytes from {before} over {count} connections",
                grown()
            )
        },
    );
}

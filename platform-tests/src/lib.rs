//! Tests that need namespaces, real programs and real peers, and the benchmarks beside a direct path.
//!
//! A test makes a [`Sandbox`], starts a [`Mesh`] in it from a [`MeshSpec`] and runs programs as further workloads:
//!
//! ```no_run
//! use adit_platform_tests::{MeshSpec, Sandbox, Workload};
//!
//! let sandbox = Sandbox::new();
//! let mesh = sandbox.up(MeshSpec::new("demo").workload(Workload::load_server(&sandbox, "server", 7000)));
//! mesh.wait_ready();
//! let who = mesh.run_as("test/client", [sandbox.load(), "who".into(), "server:7000".into()]).stdout();
//! assert!(who.contains("10.77."));
//! ```
//!
//! Everything runs as an ordinary user: as the caller or, if that is root, as `nobody` without any capability. Every
//! wait has a limit and says what it waited for, with the end of the logs. When a sandbox is dropped it checks that
//! no process and no mount of it is left. A program that is missing fails the test and names its Debian package.

pub mod bare;
pub mod bench;
pub mod cluster;
mod lab;
pub mod load;
pub mod matrix;
mod mesh;
pub mod oci;
mod process;
mod processors;
mod procfs;
mod programs;
mod relay;
mod sandbox;
pub mod seccomp;
mod spec;
pub mod stats;

pub use lab::{Lab, Place};
pub use mesh::{Mesh, Ps, PsWorkload, UpOptions};
pub use process::{Finished, Running, wait_until};
pub use processors::Processors;
pub use procfs::{Usage, pids_mentioning, usage};
pub use programs::{configured, program};
pub use relay::{RecordingRelay, Seen, free_port};
pub use sandbox::{Sandbox, User};
pub use spec::{MeshSpec, NAMESPACE, Workload};

//! The `adit` command.

use std::process::ExitCode;

/// A TLS record costs the agent two allocations of 16 KiB; glibc gives such memory back to the kernel and asks for it
/// again, which doubles the CPU time of a byte carried.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    adit_agent::cli::main()
}

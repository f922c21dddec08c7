//! Deterministic simulation: a kernel that isn't ours and the stack, joined by a link that delays, loses, repeats and
//! reorders, in virtual time. A failure prints the seed; `ADIT_SIM_SEED=<seed>` replays it alone, and
//! `ADIT_SIM_RUNS=<count>` tries more seeds, `ADIT_SIM_TRACE=1` prints every frame.

mod forward;
mod kernel;
mod path;
mod transfer;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

/// Runs `scenario` for a range of seeds, or for the one that is asked for.
fn for_each_seed(runs: u64, scenario: impl Fn(u64)) {
    let number = |name| {
        std::env::var(name)
            .ok()
            .and_then(|value| value.parse::<u64>().ok())
    };
    let seeds = match number("ADIT_SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 1..1 + number("ADIT_SIM_RUNS").unwrap_or(runs),
    };
    for seed in seeds {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| scenario(seed))) {
            eprintln!("replay with ADIT_SIM_SEED={seed}");
            resume_unwind(panic);
        }
    }
}

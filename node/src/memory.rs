//! What the C library keeps of the memory that is freed.

/// Has the C library keep up to 16 MiB of freed memory at the end of each of its heaps, one a thread, and pieces of up to
/// 1 MiB on them.
///
/// By itself glibc gives memory back from 128 KiB on, or from more where a large piece happened to be freed before. What
/// a stream has under way is freed and asked for again at once, so it's unmapped, faulted in and zeroed each time: up to a
/// quarter of an agent's time in one run, and nothing in the next.
///
/// To be called first thing; musl, for whose executables it does nothing, isn't used (docs/adr/0030).
pub fn keep_freed() {
    #[cfg(target_env = "gnu")]
    {
        configure(nix::libc::M_TRIM_THRESHOLD, KEPT);
        configure(nix::libc::M_MMAP_THRESHOLD, LARGEST);
    }
}

/// Bytes: more than eight streams have under way in one agent, so that it's faulted in once.
#[cfg(target_env = "gnu")]
const KEPT: i32 = 16 << 20;
/// Bytes: more than any buffer that is used again.
#[cfg(target_env = "gnu")]
const LARGEST: i32 = 1 << 20;

#[cfg(target_env = "gnu")]
#[expect(unsafe_code, reason = "a function of the C library that no crate wraps")]
fn configure(parameter: i32, value: i32) {
    // SAFETY: it takes two numbers, and locks what it changes.
    // JUSTIFICATION: glibc's other way, the environment, isn't ours to set before we run; another allocator made
    // every agent 12 MiB larger.
    let accepted = unsafe { nix::libc::mallopt(parameter, value) };
    debug_assert_eq!(
        accepted, 1,
        "{parameter} is a parameter, and {value} within bounds"
    );
}

#[cfg(all(test, target_env = "gnu"))]
mod tests {
    use super::*;

    /// Pages that this thread has had faulted in.
    fn faults() -> u64 {
        let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
        // proc(5): `minflt` is the eighth after the name, which ends with the last parenthesis.
        let (_, fields) = stat.rsplit_once(") ").unwrap();
        fields.split(' ').nth(7).unwrap().parse().unwrap()
    }

    /// Takes 12 MiB in pieces, writes to every page and frees them, as streams do with their frames.
    fn take_and_free() {
        let pieces: Vec<_> = (0..192_u8).map(|at| vec![at; 64 << 10]).collect();
        assert_eq!(std::hint::black_box(pieces)[31][1000], 31);
    }

    #[test]
    fn what_is_freed_is_not_faulted_in_again() {
        keep_freed();
        // A thread of its own has a heap of its own.
        let again = std::thread::spawn(|| {
            take_and_free();
            let before = faults();
            (0..20).for_each(|_| take_and_free());
            faults() - before
        });
        let again = again.join().unwrap();
        assert!(again < 3072, "{again} page faults, 3072 pages are one round's");
    }
}

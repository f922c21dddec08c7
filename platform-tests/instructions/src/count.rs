//! Counting with callgrind.

use std::collections::VecDeque;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

use crate::cases::Case;

/// Makes the calls. What runs in here is what counts; callgrind knows it by its name.
#[inline(never)]
pub(crate) fn counted(calls: u32, call: &mut dyn FnMut()) {
    for _ in 0..calls {
        call();
    }
}

/// The instructions of one call of each case, in their order; as many at once as there are processors.
pub(crate) fn all(cases: &[Case]) -> Result<Vec<(&'static str, f64)>, String> {
    let waiting: Mutex<VecDeque<(usize, &Case)>> = Mutex::new(cases.iter().enumerate().collect());
    let next = || waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
    let work = || {
        let mut done = Vec::new();
        while let Some((index, case)) = next() {
            done.push((index, one(case).map(|count| (case.name, count))));
        }
        done
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let mut done: Vec<_> = std::thread::scope(|scope| {
        #[expect(
            clippy::needless_collect,
            reason = "all of them start before the first is waited for"
        )]
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        let done = workers.into_iter().map(|worker| worker.join());
        done.flat_map(|done| done.expect("counting doesn't panic"))
            .collect()
    });
    done.sort_by_key(|(index, _)| *index);
    done.into_iter().map(|(_, counted)| counted).collect()
}

fn one(case: &Case) -> Result<f64, String> {
    let own = std::env::current_exe().map_err(|error| format!("finding this program: {error}"))?;
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .args(["--toggle-collect=*adit_instructions*count*counted*"])
        .arg(own)
        .args(["run", case.name])
        // The C library chooses its memcpy by the processor; these make it the same one on all.
        .env("GLIBC_TUNABLES", SAME_EVERYWHERE)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("starting valgrind: {error} (Debian: valgrind)"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        return Err(format!(
            "{}: valgrind ended with {}:\n{said}",
            case.name, output.status
        ));
    }
    let counted = collected(&said).filter(|count| *count > 0);
    let counted = counted.ok_or_else(|| format!("{}: valgrind counted nothing:\n{said}", case.name))?;
    Ok(counted as f64 / f64::from(case.calls))
}

/// The number in callgrind's line `==PID== Collected : NUMBER`.
fn collected(said: &str) -> Option<u64> {
    let number = said.lines().find_map(|line| line.split_once("Collected : "))?.1;
    number.split_whitespace().next()?.parse().ok()
}

const SAME_EVERYWHERE: &str = "glibc.cpu.hwcaps=-AVX512F,-AVX512VL,-AVX2,-AVX,-AVX_Fast_Unaligned_Load,\
    -AVX2_Usable,-AVX2,-ERMS,-FSRM,-Prefer_ERMS,-SSSE3,-Fast_Copy_Backward";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_count_is_what_callgrind_says_at_its_end() {
        let said = "==7== Events    : Ir\n==7== Collected : 1234567\n==7==\n==7== I   refs:      1,234,567\n";
        assert_eq!(collected(said), Some(1_234_567));
        assert_eq!(collected("==7== Collected :\n"), None);
        assert_eq!(collected(""), None);
    }
}

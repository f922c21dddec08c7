//! Which processors a program may run on.

use std::fmt;

use rustix::thread::{CpuSet, sched_getaffinity};

/// Some of the machine's processors, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Processors(Vec<usize>);

impl Processors {
    /// Those that this process may run on, in two halves; the second has the odd one.
    ///
    /// # Panics
    /// If there's only one.
    #[track_caller]
    pub fn halves() -> [Self; 2] {
        let allowed = sched_getaffinity(None).expect("a process may ask for its own processors");
        let all = (0..CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu));
        Self::split(all.collect()).expect("hosts with processors of their own need two processors")
    }

    fn split(mut all: Vec<usize>) -> Option<[Self; 2]> {
        if all.len() < 2 {
            return None;
        }
        let second = all.split_off(all.len() / 2);
        Some([Self(all), Self(second)])
    }
}

/// As `taskset -c` takes them.
impl fmt::Display for Processors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let each: Vec<String> = self.0.iter().map(usize::to_string).collect();
        f.write_str(&each.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_share_nothing() {
        let shown = |all| Processors::split(all).map(|halves| halves.map(|half| half.to_string()));
        assert_eq!(shown(vec![0]), None);
        assert_eq!(shown(vec![0, 1]), Some(["0".to_owned(), "1".to_owned()]));
        assert_eq!(
            shown(vec![2, 3, 5, 8, 9]),
            Some(["2,3".to_owned(), "5,8,9".to_owned()])
        );
    }
}

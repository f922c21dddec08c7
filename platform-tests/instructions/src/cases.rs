//! What is counted.

mod link;
mod netstack;
mod policy;
mod tunnel;

/// A call, made often enough that the first ones don't count for much.
#[derive(Clone, Copy)]
pub(crate) struct Case {
    /// Its name in the baseline.
    pub(crate) name: &'static str,
    /// How often it's made.
    pub(crate) calls: u32,
    /// Prepares everything, and gives the call.
    pub(crate) prepare: fn() -> Box<dyn FnMut()>,
}

/// All of them.
pub(crate) fn all() -> Vec<Case> {
    [netstack::CASES, link::CASES, tunnel::CASES, policy::CASES].concat()
}

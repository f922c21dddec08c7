//! Paths of other proxies, set up by scripts. `platform-tests/bench/README.md` is what such a script has to do.

use std::path::Path;
use std::time::Duration;

use rustix::process::Signal;
use serde::Deserialize;

use super::ours::{A, B, OUTSIDE, START_LIMIT};
use super::path::BenchPath;
use super::progress::tell;
use crate::lab::Lab;
use crate::process::{Running, wait_quietly, wait_until};
use crate::sandbox::Sandbox;

/// How long a script may take to remove what it made.
const END_LIMIT: Duration = Duration::from_secs(10);

/// What a script prints when its path is ready.
#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Ready {
    namespace: u32,
    #[serde(default)]
    carriers: Vec<u32>,
    target: Option<String>,
}

/// A script that is told when it's to end, and given time for it.
#[derive(Debug)]
struct Script(Running);

/// The path that `script` sets up; `None` if it says that it can't here.
///
/// # Panics
/// If the script says neither in time, or something else.
#[track_caller]
pub fn external<'a>(name: &str, script: &Path, lab: &Lab, a: &'a Sandbox) -> Option<BenchPath<'a>> {
    let text = std::fs::read(script).unwrap_or_else(|error| panic!("reading {}: {error}", script.display()));
    // A copy: the folder of the original may be closed to the user.
    let copy = a.file(&format!("home/{name}.sh"), text);
    let mut command = a.user().root_at("sh", lab.a);
    command
        .arg(copy)
        .env("ADIT_LOAD", a.load())
        .env("ADIT_TUN", a.tun())
        .env("ADIT_BENCH_A", lab.a.pid().to_string())
        .env("ADIT_BENCH_A_ADDRESS", A)
        .env("ADIT_BENCH_B", lab.b.pid().to_string())
        .env("ADIT_BENCH_B_ADDRESS", B)
        .env("ADIT_BENCH_TARGET", OUTSIDE);
    let mut setup = Script(Running::spawn(command));
    let line = wait_until(
        &format!("{name} to be ready"),
        START_LIMIT,
        || {
            let ended = setup.0.has_ended();
            let line = setup.0.stdout().lines().next().map(str::to_owned);
            line.or_else(|| ended.then(|| format!("skip the script ended: {}", setup.0.stderr())))
        },
        || String::from("nothing"),
    );
    if let Some(why) = line.strip_prefix("skip") {
        tell(format_args!("{name} isn't measured:{why}"));
        return None;
    }
    let ready: Ready =
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error} in {line:?} of {name}"));
    let namespace = ready.namespace.to_string();
    let client = move || {
        let mut command = a.user().command("nsenter");
        command
            .args([
                "--target",
                &namespace,
                "--user",
                "--net",
                "--preserve-credentials",
                "--",
            ])
            .arg(a.load());
        command
    };
    let target = ready.target.unwrap_or_else(|| OUTSIDE.to_owned());
    let path = BenchPath::new(name, target, ready.carriers, client);
    Some(path.with(setup).foreign())
}

impl Drop for Script {
    fn drop(&mut self) {
        self.0.close_stdin();
        self.0.signal(Signal::TERM);
        if !wait_quietly(END_LIMIT, || self.0.has_ended()) {
            tell(format_args!(
                "a set-up script still runs {END_LIMIT:?} after SIGTERM: it's killed"
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_says_where_and_who_and_to_whom() {
        let ready = |text| serde_json::from_str::<Ready>(text).ok();
        let found = ready(r#"{"namespace": 7, "carriers": [8, 9], "target": "10.0.0.1:80"}"#).unwrap();
        assert_eq!((found.namespace, found.carriers), (7, vec![8, 9]));
        assert_eq!(ready(r#"{"namespace": 7}"#).unwrap().target, None);
        assert_eq!(ready(r#"{"namespace": 7, "carrier": 8}"#), None);
    }

    #[test]
    fn a_script_is_ended_by_sigterm_and_may_clean_up() {
        let folder = std::env::temp_dir().join(format!("adit-script-{}", std::process::id()));
        let mut command = std::process::Command::new("sh");
        command.arg("-c").arg(format!(
            "trap 'touch {}; exit' TERM; echo ready; while :; do sleep 0.01; done",
            folder.display()
        ));
        let mut running = Running::spawn(command);
        running.wait_for("ready", START_LIMIT);
        drop(Script(running));
        std::fs::remove_file(&folder).expect("the script's trap has made it");
    }
}

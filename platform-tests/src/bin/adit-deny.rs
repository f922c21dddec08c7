//! `adit-deny NAME[,NAME…] PROGRAM…`: runs a program from which single things of the kernel are taken away.

use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};

use adit_platform_tests::seccomp;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let (Some(names), Some(program)) = (arguments.next(), arguments.next()) else {
        eprintln!("adit-deny: expected NAME[,NAME…] PROGRAM [ARGUMENT…]");
        return ExitCode::from(2);
    };
    let names = names.to_string_lossy();
    if let Err(error) = seccomp::deny(&names.split(',').collect::<Vec<_>>()) {
        eprintln!("adit-deny: {names}: {error}");
        return ExitCode::from(2);
    }
    let error = Command::new(&program).args(arguments).exec();
    eprintln!("adit-deny: starting {}: {error}", program.display());
    ExitCode::from(2)
}

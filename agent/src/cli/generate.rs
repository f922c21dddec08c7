//! `adit completions`, `adit man`: what packages install beside the binary, from the same definitions as --help.

use std::io;

use clap::CommandFactory as _;
use clap_complete::Shell;

use super::args::{Cli, Completions, Man};
use super::{CliError, print};

/// Prints the completions of a shell.
pub(super) fn completions(args: &Completions) -> Result<u8, CliError> {
    print(&script(args.shell))?;
    Ok(0)
}

/// Writes one page for each command into a folder.
pub(super) fn man(args: &Man) -> Result<u8, CliError> {
    let written = std::fs::create_dir_all(&args.folder)
        .and_then(|()| clap_mangen::generate_to(Cli::command(), &args.folder));
    written.map_err(|source: io::Error| CliError::System {
        step: "writing the manual pages",
        source,
    })?;
    Ok(0)
}

/// The generators of completions show hidden commands, unlike --help, so they get a root without those.
fn script(shell: Shell) -> String {
    let all = Cli::command();
    let shown = all.get_subcommands().filter(|command| !command.is_hide_set());
    let mut root = clap::Command::new(NAME)
        .version(env!("CARGO_PKG_VERSION"))
        .subcommands(shown.cloned());
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut root, NAME, &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

const NAME: &str = "adit";

#[cfg(test)]
mod tests {
    use clap::ValueEnum as _;

    use super::*;

    #[test]
    fn every_shell_completes_the_commands_that_help_shows() {
        for shell in Shell::value_variants() {
            let script = script(*shell);
            assert!(
                script.contains("identity") && script.contains("svid-ttl"),
                "{shell}: {script}"
            );
            assert!(
                !script.contains("run-dir"),
                "{shell} completes an inner command: {script}"
            );
        }
    }

    #[test]
    fn each_shown_command_has_a_page() {
        let folder = std::env::temp_dir().join(format!("adit-man-{}", std::process::id()));
        man(&Man {
            folder: folder.clone(),
        })
        .unwrap();
        let page = std::fs::read_to_string(folder.join("adit-up.1")).unwrap();
        let inner = folder.join("adit-enter.1").exists();
        std::fs::remove_dir_all(&folder).unwrap();
        assert!(page.contains("svid") && !inner, "{page}");
    }
}

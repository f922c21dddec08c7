//! Files of the mesh that are saved while it runs: taken, or refused with a word to people.

use std::time::Instant;

use adit_control::{FileSource, Loaded, Report, Style, Update};
use tokio::sync::mpsc;

use super::running::Supervisor;
use super::table::{Replaced, policy_texts};
use super::{Event, Options};
use crate::admin::Fault;
use crate::agent::policies;

impl Supervisor {
    /// A file that is wrong changes nothing, and people are told what is wrong with it.
    pub(super) fn on_file(&mut self, update: Update) {
        match update {
            Update::Changed(loaded) => self.on_saved(*loaded),
            Update::Refused(report) => {
                let report = report.render(Style::Plain);
                self.refuse_file(
                    "the mesh file was saved and can't be used; the mesh goes on as it was",
                    &report,
                );
            }
        }
    }

    /// Says what is wrong with a saved file, and keeps it for `adit ps`.
    fn refuse_file(&mut self, outcome: &str, report: &str) {
        self.notices.say(&format!("[{REFUSED_FILE}] {outcome}"));
        for line in report.lines() {
            self.notices.say(line);
        }
        let first = report.lines().next().unwrap_or_default();
        self.table.refuse(Fault::new(REFUSED_FILE, first), Instant::now());
    }

    fn on_saved(&mut self, loaded: Loaded) {
        // The agent would refuse them, and with them every later change of the mesh.
        if let Err(error) = policies::check(&policy_texts(&loaded.mesh)) {
            let outcome =
                "a policy file was saved and can't be used; the mesh goes on with the policies that it had";
            return self.refuse_file(outcome, &error.to_string());
        }
        if loaded.mesh.trust_domain != *self.table.trust_domain() {
            let outcome = "the mesh file was saved with another trust domain; the mesh goes on as it was";
            let report = format!(
                "the trust domain of a running mesh can't change: expected {}, got {}; stop the mesh and start it again",
                self.table.trust_domain(),
                loaded.mesh.trust_domain
            );
            return self.refuse_file(outcome, &report);
        }
        let replaced = self.table.replace(loaded.mesh, loaded.text, Instant::now());
        self.desired.send_replace(self.table.desired());
        self.notices.say(match replaced {
            Replaced::Whole { restart_needed: false } => "the mesh file or a policy file was saved and took effect",
            Replaced::Whole { restart_needed: true } => {
                "the mesh file was saved and took effect, but for how programs are run: start the mesh again for that"
            }
            Replaced::Policies => {
                "the mesh file was saved with other workloads than run: only its policies took effect; start the mesh again for the rest"
            }
        });
        self.say_report(&loaded.warnings);
    }

    fn say_report(&self, report: &Report) {
        for line in report.render(Style::Plain).lines() {
            self.notices.say(line);
        }
    }
}

/// Follows the files of the mesh. One that can't be watched is no reason not to run, but one to be told.
pub(super) fn watch(options: &Options, reports: &mpsc::UnboundedSender<Event>) -> Option<FileSource> {
    if !options.watch {
        return None;
    }
    let source = &options.source;
    let changes = reports.clone();
    let watched = FileSource::watch(&source.path, (*source.mesh).clone(), move |update| {
        // Nobody takes it any more when everything is about to end.
        let _ = changes.send(Event::FileChanged(Box::new(update)));
    });
    watched
        .map_err(|error| {
            let _ = reports.send(Event::Warning(format!(
                "changes of files won't take effect: {error}"
            )));
        })
        .ok()
}

/// A saved file that can't be taken.
const REFUSED_FILE: &str = "ADIT-A019";

//! The laptop path: a mesh of two workloads, requests and streams between them in both directions, mutual TLS.

use std::fs;
use std::path::Path as FilePath;
use std::process::Command;

use adit_flow::{Direction, FlowRecord, Mode, MtlsState};
use serde_json::{Value, json};

use super::become_it::run_folder;
use super::run::link_option;
use super::{PORT, Tools, finished, last_words, shortened, succeeded, waited};
use crate::matrix::cell::Cell;
use crate::matrix::outcome::{Attempt, Ended};
use crate::process::Running;

const MESH: &str = "cells";

/// Runs a mesh and sends something through it.
///
/// # Errors
/// What came of it instead.
pub(super) fn real(cell: Cell, tools: &Tools) -> Result<String, Attempt> {
    let folder = run_folder();
    let file = folder.join("mesh.json");
    fs::write(&file, mesh(tools)).map_err(|error| Attempt::no(format!("writing the mesh file: {error}")))?;
    let mut up = Running::spawn({
        let mut command = adit(tools, &folder);
        command.arg("up").arg(&file).args(link_option(cell.link));
        command
    });
    let server = waited("the workload to be ready", || {
        if up.has_ended() {
            return Err(Attempt::no(last_words(&up)));
        }
        Ok(ready_server(cell, tools, &folder))
    })
    .map_err(|attempt| with_words(attempt, &up))?;
    talk(tools, &folder, &server).map_err(|attempt| with_words(attempt, &up))?;
    let flow = waited("the record of a flow", || tunnelled(tools, &folder))?;
    let mut down = adit(tools, &folder);
    down.args(["down", MESH]);
    succeeded(down)?;
    match up.try_finish(super::WAIT_LIMIT) {
        Err(up) => Err(Attempt::of(
            Ended::Hung,
            format!("after adit down: {}", last_words(&up)),
        )),
        Ok(done) if done.code() != 0 => Err(Attempt::no(shortened(&done.to_string()))),
        Ok(_) => Ok(flow),
    }
}

fn adit(tools: &Tools, folder: &FilePath) -> Command {
    let mut command = tools.adit();
    command.env("ADIT_RUN_DIR", folder.join("meshes"));
    command
}

fn mesh(tools: &Tools) -> String {
    let serve = [
        tools.load.display().to_string(),
        "serve".into(),
        "--port".into(),
        PORT.to_string(),
    ];
    json!({
        "apiVersion": "adit.dev/v1alpha1", "kind": "Mesh", "name": MESH, "trustDomain": "cells.local",
        "namespaces": [{"name": "test"}],
        "workloads": [{
            "name": "server", "namespace": "test", "serviceAccountName": "server", "command": serve,
            "ports": [{"name": "main", "containerPort": PORT}],
            "readinessProbe": {"tcpSocket": {"port": "main"}}, "restartPolicy": "Never",
        }],
    })
    .to_string()
}

/// The server's address, once it's ready, over the link that was asked for.
fn ready_server(cell: Cell, tools: &Tools, folder: &FilePath) -> Option<String> {
    let mut command = adit(tools, folder);
    command.args(["ps", "--json"]);
    let said: Value = serde_json::from_str(&finished(command).ok()?.raw_stdout()).ok()?;
    let workload = &said[0]["workloads"][0];
    let is_ready = workload["ready"] == true && workload["link"] == cell.link.name();
    is_ready.then(|| workload["addresses"][0].as_str().map(str::to_owned))?
}

/// As another workload: requests with their responses, and a stream each way whose bytes are checked.
fn talk(tools: &Tools, folder: &FilePath, server: &str) -> Result<(), Attempt> {
    let target = format!("{server}:{PORT}");
    for load in loads() {
        let mut command = adit(tools, folder);
        command
            .args(["run", "--mesh", MESH, "--as", "test/client", "--"])
            .arg(&tools.load)
            .args([load[0], &target])
            .args(&load[1..]);
        succeeded(command)?;
    }
    Ok(())
}

/// What `adit-load` is to do, without its target, which is the second word.
pub(super) fn loads() -> [Vec<&'static str>; 3] {
    [
        vec!["rr", "--count", "10", "--request", "300", "--response", "3000"],
        vec!["stream", "--bytes", "300000"],
        vec!["stream", "--bytes", "300000", "--reverse"],
    ]
}

/// How a flow to the server travelled, once there is one that did in a tunnel.
fn tunnelled(tools: &Tools, folder: &FilePath) -> Result<Option<String>, Attempt> {
    let mut command = adit(tools, folder);
    command.args(["flows", MESH, "--json"]);
    Ok(find_tunnelled(&succeeded(command)?.raw_stdout()))
}

/// The same of what `adit flows --json` said.
pub(super) fn find_tunnelled(said: &str) -> Option<String> {
    let flows = said
        .lines()
        .filter_map(|line| serde_json::from_str::<FlowRecord>(line).ok());
    let mut tunnelled = flows.filter(|flow| {
        flow.direction == Direction::Inbound
            && flow.destination.addr.port() == PORT
            && flow.mode == Mode::Hbone
            && flow.mtls == MtlsState::Mutual
    });
    tunnelled
        .next()
        .map(|flow| format!("{} bytes in HBONE, mutual TLS", flow.bytes_received))
}

/// What a running program said belongs to why something didn't come of it.
fn with_words(attempt: Attempt, running: &Running) -> Attempt {
    Attempt::of(
        attempt.ended,
        shortened(&format!("{}; {}", attempt.said, last_words(running))),
    )
}

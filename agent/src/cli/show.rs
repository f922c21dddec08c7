//! `adit ps`, `adit identity`, `adit dump`, `adit down`.

use std::collections::BTreeSet;
use std::time::{SystemTime, UNIX_EPOCH};

use super::args::{Mesh, Ps, Show};
use super::table::{age, render};
use super::{CliError, block_on, print, print_json};
use crate::admin::{AgentClient, FilesStatus, PsReport, PsRow, SupervisorClient, SvidStatus, WorkloadState};
use crate::rundir::{Base, RunPaths};

/// Stops a mesh, and returns when it is gone.
pub(super) fn down(args: &Mesh) -> Result<u8, CliError> {
    let paths = Base::of_process().find(args.mesh.as_deref())?;
    block_on(async {
        Ok(SupervisorClient::connect(&paths.supervisor_socket())
            .await?
            .down()
            .await?)
    })?;
    Ok(0)
}

/// Prints the agent's state and its counters as JSON.
pub(super) fn dump(args: &Mesh) -> Result<u8, CliError> {
    let paths = Base::of_process().find(args.mesh.as_deref())?;
    let (state, counters, files) = block_on(async {
        let mut agent = AgentClient::connect(&paths.agent_socket()).await?;
        let files = match is_of_node(&paths) {
            true => None,
            false => {
                let mut supervisor = SupervisorClient::connect(&paths.supervisor_socket()).await?;
                Some(supervisor.ps().await?.files)
            }
        };
        Ok((agent.dump().await?, agent.counters().await?, files))
    })?;
    print_json(&serde_json::json!({ "counters": counters, "files": files, "state": state }))?;
    Ok(0)
}

/// Whether the agent serves a Kubernetes node: then it has no supervisor, and the cluster's state takes the place of files.
fn is_of_node(paths: &RunPaths) -> bool {
    paths.dir().ends_with(super::cluster::MESH)
}

/// Shows what runs, in one mesh or in all.
pub(super) fn ps(args: &Ps) -> Result<u8, CliError> {
    let base = Base::of_process();
    let meshes = match &args.mesh {
        Some(mesh) => vec![base.find(Some(mesh))?],
        None => base
            .running()?
            .iter()
            .map(|mesh| base.find(Some(mesh)))
            .collect::<Result<_, _>>()?,
    };
    let mut reports = Vec::new();
    for paths in meshes {
        let report = async {
            Ok(SupervisorClient::connect(&paths.supervisor_socket())
                .await?
                .ps()
                .await?)
        };
        reports.push(block_on(report)?);
    }
    match args.json {
        true => print_json(&reports)?,
        false if reports.is_empty() => print(&"no mesh is running\n")?,
        false => print(&reports.iter().map(ps_text).collect::<Vec<_>>().join("\n"))?,
    }
    Ok(0)
}

fn ps_text(report: &PsReport) -> String {
    let node = report
        .node
        .as_ref()
        .map(|node| format!(" on node {node}"))
        .unwrap_or_default();
    let agent = match (report.agent_pid, report.agent_restarts) {
        (None, _) => "no agent: it is being started".to_owned(),
        (Some(pid), 0) => format!("agent {pid}"),
        (Some(pid), restarts) => format!("agent {pid} after {restarts} restarts"),
    };
    let links: BTreeSet<_> = report
        .workloads
        .iter()
        .filter_map(|row| row.link.as_deref())
        .collect();
    let links = match links.is_empty() {
        true => String::new(),
        false => format!(", link {}", Vec::from_iter(links).join(" and ")),
    };
    let rows: Vec<_> = report.workloads.iter().map(ps_cells).collect();
    let header = [
        "NAME",
        "STATE",
        "READY",
        "RESTARTS",
        "AGE",
        "PID",
        "ADDRESSES",
        "LAST EXIT",
    ];
    let dropped = match report.lines_dropped {
        0 => String::new(),
        count => format!(", {count} lines of output dropped"),
    };
    format!(
        "mesh {}{node}: supervisor {}, {agent}{links}{dropped}\n{}{}",
        report.mesh,
        report.supervisor_pid,
        files_text(&report.files),
        render(header, &rows)
    )
}

/// Which version of the files is in force, and what became of the newest if it isn't that one.
fn files_text(files: &FilesStatus) -> String {
    let in_force = format!(
        "files of {}: version {} in force for {}\n",
        files.path.display(),
        files.generation,
        age(files.seconds_in_force)
    );
    match &files.refused {
        Some(refused) => format!(
            "{in_force}the version saved {} ago was refused: {}\n",
            age(refused.seconds_ago),
            refused.fault
        ),
        None => in_force,
    }
}

fn ps_cells(row: &PsRow) -> [String; 8] {
    let state = match &row.state {
        WorkloadState::CrashLoop { retry_in_seconds } => format!("CrashLoop, again in {retry_in_seconds}s"),
        state => state.to_string(),
    };
    let pid = match row.state {
        WorkloadState::Running { pid } => pid.to_string(),
        _ => String::new(),
    };
    let ready = match row.state {
        // Its own supervisor knows.
        WorkloadState::Elsewhere { .. } => "?",
        _ if row.ready => "yes",
        _ => "no",
    };
    let addresses: Vec<_> = row.addresses.iter().map(ToString::to_string).collect();
    [
        row.name.to_string(),
        state,
        ready.to_owned(),
        row.restarts.to_string(),
        age(row.seconds_in_state),
        pid,
        addresses.join(","),
        row.last_exit.clone().unwrap_or_default(),
    ]
}

/// Shows the certificates that the agent holds.
pub(super) fn identity(args: &Show) -> Result<u8, CliError> {
    let paths = Base::of_process().find(args.mesh.mesh.as_deref())?;
    let svids = block_on(async {
        Ok(AgentClient::connect(&paths.agent_socket())
            .await?
            .identity()
            .await?)
    })?;
    match args.json {
        true => print_json(&svids)?,
        false => {
            let now = SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .unwrap_or_default()
                .as_secs();
            let rows: Vec<_> = svids.iter().map(|svid| identity_cells(svid, now)).collect();
            print(&render(
                ["IDENTITY", "SERIAL", "VALID", "ROTATIONS", "WORKLOADS", "RENEWAL"],
                &rows,
            ))?;
        }
    }
    Ok(0)
}

fn identity_cells(svid: &SvidStatus, now: u64) -> [String; 6] {
    let valid = match (now < svid.not_before, svid.not_after.checked_sub(now)) {
        (true, _) => format!("in {}", age(svid.not_before - now)),
        (false, Some(left)) => format!("{} more", age(left)),
        (false, None) => format!("expired {} ago", age(now - svid.not_after)),
    };
    let workloads: Vec<_> = svid.workloads.iter().map(ToString::to_string).collect();
    [
        svid.identity.clone(),
        svid.serial.clone(),
        valid,
        svid.rotations.to_string(),
        workloads.join(","),
        svid.renewal_error.clone().unwrap_or_else(|| "ok".to_owned()),
    ]
}

#[cfg(test)]
mod tests {
    use adit_flow::WorkloadName;

    use super::*;
    use crate::admin::{Fault, RefusedFiles};

    #[test]
    fn the_table_shows_what_waits_and_why() {
        let row = |name: &str, state, last_exit: Option<&str>| PsRow {
            name: WorkloadName::new("shop", name),
            addresses: vec!["10.77.0.2".parse().unwrap()],
            link: matches!(state, WorkloadState::Running { .. }).then(|| "packet".to_owned()),
            ready: matches!(state, WorkloadState::Running { .. }),
            state,
            restarts: 3,
            last_exit: last_exit.map(str::to_owned),
            seconds_in_state: 5,
        };
        let report = PsReport {
            mesh: "shop".into(),
            node: None,
            supervisor_pid: 1,
            agent_pid: Some(2),
            agent_restarts: 0,
            lines_dropped: 7,
            files: FilesStatus {
                path: "shop.yaml".into(),
                generation: 3,
                seconds_in_force: 90,
                refused: Some(RefusedFiles {
                    fault: Fault::new("ADIT-A019", "shop.yaml:3:1: no"),
                    seconds_ago: 5,
                }),
            },
            workloads: vec![
                row("web", WorkloadState::Running { pid: 9 }, None),
                row(
                    "db",
                    WorkloadState::CrashLoop { retry_in_seconds: 4 },
                    Some("status 1"),
                ),
            ],
        };
        assert_eq!(
            ps_text(&report),
            "mesh shop: supervisor 1, agent 2, link packet, 7 lines of output dropped\n\
             files of shop.yaml: version 3 in force for 90s\n\
             the version saved 5s ago was refused: [ADIT-A019] shop.yaml:3:1: no\n\
             NAME      STATE                   READY  RESTARTS  AGE  PID  ADDRESSES  LAST EXIT\n\
             shop/web  Running                 yes    3         5s   9    10.77.0.2\n\
             shop/db   CrashLoop, again in 4s  no     3         5s        10.77.0.2  status 1\n"
        );
    }

    #[test]
    fn validity_is_told_from_now() {
        let svid = SvidStatus {
            identity: "spiffe://x/ns/a/sa/b".into(),
            serial: "0a".into(),
            not_before: 100,
            not_after: 200,
            rotations: 1,
            workloads: Vec::new(),
            renewal_error: None,
        };
        assert_eq!(
            [50, 150, 250].map(|now| identity_cells(&svid, now)[2].clone()),
            ["in 50s", "50s more", "expired 50s ago"]
        );
    }
}

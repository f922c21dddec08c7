//! `adit mesh`: which pods of a namespace are in the mesh, and putting them there.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Write as _};

use adit_control::kubernetes::{
    self, Captured, EnrolmentError, KubeClient, Outside, Roster, Standing, WirePort,
};

use super::args::{MeshChange, MeshCommand, MeshNamespace};
use super::table::render;
use super::{CliError, block_on, print, print_json};

/// What a command exits with whose pods aren't yet what they should be.
pub(super) const UNSETTLED: u8 = 3;

/// How many pods, or nodes, a message names.
const NAMED: usize = 10;

/// Pods that aren't yet what they should be.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Unsettled {
    /// Those whose agent is at work.
    waiting: Vec<String>,
    /// Those on nodes without a ready agent, by node: nothing happens to them.
    without_agent: BTreeMap<String, Vec<String>>,
}

/// Runs one of the commands.
pub(super) fn mesh(command: MeshCommand) -> Result<u8, CliError> {
    block_on(async {
        match command {
            MeshCommand::Add(args) => change(&args, true).await,
            MeshCommand::Remove(args) => change(&args, false).await,
            MeshCommand::Status(args) => {
                let client = connect(&args.of).await?;
                let roster = kubernetes::roster(&client, &args.of.namespace, &args.of.agents).await?;
                report(&roster, args.json)
            }
        }
    })
}

async fn change(args: &MeshChange, in_mesh: bool) -> Result<u8, CliError> {
    let MeshNamespace {
        namespace, agents, ..
    } = &args.of;
    if in_mesh && namespace == agents {
        return Err(CliError::Usage {
            problem: format!("{namespace} is adit's own namespace: an agent can't be behind itself"),
        });
    }
    let client = connect(&args.of).await?;
    kubernetes::enrol(&client, namespace, in_mesh).await?;
    let Some(patience) = args.wait else {
        return Ok(0);
    };
    // Whoever waits wants to know at once what they may wait for in vain.
    let mut told = BTreeMap::new();
    let roster = kubernetes::await_settled(&client, namespace, agents, patience, |roster| {
        let Unsettled { without_agent, .. } = Unsettled::of(roster);
        if !without_agent.is_empty() && without_agent != told {
            // Standard error that is gone leaves nobody to tell.
            let _ = writeln!(io::stderr(), "adit: {}", NoAgent(&without_agent));
        }
        told = without_agent;
    });
    report(&roster.await?, args.json)
}

async fn connect(of: &MeshNamespace) -> Result<KubeClient, CliError> {
    Ok(kubernetes::connect_as(of.kubeconfig.as_deref(), of.context.as_deref()).await?)
}

/// Shows what there is on standard output, and says what it should be.
fn report(roster: &Roster, as_json: bool) -> Result<u8, CliError> {
    match as_json {
        true => print_json(roster)?,
        false => print(&text(roster))?,
    }
    match Unsettled::of(roster) {
        unsettled if unsettled == Unsettled::default() => Ok(0),
        unsettled => Err(unsettled.into()),
    }
}

fn text(roster: &Roster) -> String {
    let place = if roster.in_mesh { "in" } else { "outside" };
    let head = format!(
        "namespace {} is {place} the mesh by its label\n",
        roster.namespace
    );
    if roster.pods.is_empty() {
        return format!("{head}it has no pods\n");
    }
    let rows: Vec<_> = roster.pods.iter().map(cells).collect();
    head + &render(["POD", "NODE", "BELONGS", "CAPTURED", "WIRE PORT"], &rows)
}

fn cells(pod: &Standing) -> [String; 5] {
    let belongs = match pod.outside {
        None => "yes".to_owned(),
        Some(why) => format!("no: {}", reason(why)),
    };
    let captured = match &pod.captured {
        None if !pod.is_settled() && !pod.has_agent => "no: no agent is ready on its node".to_owned(),
        None => "no".to_owned(),
        Some(Captured { since: None, .. }) => "yes".to_owned(),
        Some(Captured {
            since: Some(time), ..
        }) => format!("since {time}"),
    };
    let wire_port = pod.captured.as_ref().map(|captured| match captured.wire_port {
        WirePort::Hbone => "15008",
        WirePort::Original => "original",
    });
    [
        pod.pod.clone(),
        pod.node.clone().unwrap_or_default(),
        belongs,
        captured,
        wire_port.unwrap_or_default().to_owned(),
    ]
}

fn reason(why: Outside) -> &'static str {
    match why {
        Outside::NotRunning => "it isn't running",
        Outside::Leaving => "it's being deleted",
        Outside::HostNetwork => "it's on its node's network",
        Outside::Sidecar => "it has a sidecar",
        Outside::OptedOut => "its own label says none",
        Outside::NotAsked => "no label puts it in",
    }
}

impl Unsettled {
    fn of(roster: &Roster) -> Self {
        let mut all = Self::default();
        for pod in roster.unsettled() {
            let pods = match &pod.node {
                Some(node) if !pod.has_agent => all.without_agent.entry(node.clone()).or_default(),
                _ => &mut all.waiting,
            };
            pods.push(pod.pod.clone());
        }
        all
    }
}

impl std::error::Error for Unsettled {}

impl fmt::Display for Unsettled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.waiting.is_empty() {
            let pods = named(self.waiting.iter().map(String::as_str));
            write!(
                f,
                "[ADIT-A074] these pods have neither joined nor left yet: {pods}"
            )?;
        }
        if !self.waiting.is_empty() && !self.without_agent.is_empty() {
            f.write_str("; ")?;
        }
        match self.without_agent.is_empty() {
            true => Ok(()),
            false => NoAgent(&self.without_agent).fmt(f),
        }
    }
}

/// Pods on nodes without a ready agent, by node.
struct NoAgent<'a>(&'a BTreeMap<String, Vec<String>>);

impl fmt::Display for NoAgent<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nodes = named(self.0.keys().map(String::as_str));
        let pods = named(self.0.values().flatten().map(String::as_str));
        write!(
            f,
            "[ADIT-A073] no agent is ready on {nodes}, so these pods there neither join nor leave: {pods}"
        )
    }
}

/// The first few, and how many more there are.
fn named<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<_> = names.collect();
    let (first, rest) = names.split_at(names.len().min(NAMED));
    match rest.len() {
        0 => first.join(", "),
        more => format!("{} and {more} more", first.join(", ")),
    }
}

/// The code of what the API was asked for in vain.
pub(super) fn code(error: &EnrolmentError) -> &'static str {
    match error {
        EnrolmentError::Forbidden { .. } => "ADIT-A071",
        EnrolmentError::BadName { .. } | EnrolmentError::NoNamespace { .. } => "ADIT-A072",
        _ => "ADIT-A075",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str, outside: Option<Outside>, is_captured: bool, has_agent: bool) -> Standing {
        Standing {
            pod: name.to_owned(),
            node: Some(if has_agent { "kn1" } else { "kn2" }.to_owned()),
            outside,
            captured: is_captured.then_some(Captured {
                since: None,
                wire_port: WirePort::Hbone,
            }),
            has_agent,
        }
    }

    fn roster(pods: impl IntoIterator<Item = Standing>) -> Roster {
        Roster {
            namespace: "shop".to_owned(),
            in_mesh: true,
            pods: pods.into_iter().collect(),
        }
    }

    fn said(pods: impl IntoIterator<Item = Standing>) -> String {
        Unsettled::of(&roster(pods)).to_string()
    }

    #[test]
    fn nothing_is_said_of_pods_that_are_what_they_should_be() {
        let settled = [
            pod("in", None, true, true),
            pod("out", Some(Outside::OptedOut), false, false),
        ];
        assert_eq!(Unsettled::of(&roster(settled)), Unsettled::default());
    }

    #[test]
    fn who_waits_in_vain_is_told_beside_who_waits() {
        let joins = pod("web", None, false, true);
        let leaves = pod("api", Some(Outside::NotAsked), true, true);
        let waiting = "[ADIT-A074] these pods have neither joined nor left yet: web, api";
        assert_eq!(said([joins.clone(), leaves.clone()]), waiting);
        let in_vain = pod("db", None, false, false);
        let no_agent = "[ADIT-A073] no agent is ready on kn2, so these pods there neither join nor leave: db";
        assert_eq!(said([in_vain.clone()]), no_agent);
        assert_eq!(
            said([in_vain, joins, leaves]),
            format!("{waiting}; {no_agent}"),
            "neither hides the other"
        );
    }

    #[test]
    fn a_long_list_is_cut() {
        let pods = (0..12).map(|number| pod(&format!("p{number}"), None, false, true));
        let said = said(pods);
        assert!(said.ends_with("p8, p9 and 2 more"), "{said}");
    }

    #[test]
    fn the_table_says_why_not() {
        let mut since = pod("since", None, true, true);
        since.captured = Some(Captured {
            since: Some("2026-01-02T00:00:00Z".to_owned()),
            wire_port: WirePort::Original,
        });
        let row = |pod: &Standing| cells(pod).join("|");
        assert_eq!(row(&since), "since|kn1|yes|since 2026-01-02T00:00:00Z|original");
        assert_eq!(row(&pod("in", None, true, true)), "in|kn1|yes|yes|15008");
        assert_eq!(row(&pod("soon", None, false, true)), "soon|kn1|yes|no|");
        assert_eq!(
            row(&pod("never", None, false, false)),
            "never|kn2|yes|no: no agent is ready on its node|"
        );
        assert_eq!(
            row(&pod("host", Some(Outside::HostNetwork), false, false)),
            "host|kn2|no: it's on its node's network|no|"
        );
        assert_eq!(
            text(&roster([])),
            "namespace shop is in the mesh by its label\nit has no pods\n"
        );
    }

    #[test]
    fn scripts_read_what_people_read() {
        let shop = roster([
            pod("in", None, true, true),
            pod("out", Some(Outside::HostNetwork), false, false),
        ]);
        let expected = serde_json::json!({"namespace": "shop", "in_mesh": true, "pods": [
            {"pod": "in", "node": "kn1", "outside": null, "captured": {"since": null, "wire_port": "15008"}, "has_agent": true},
            {"pod": "out", "node": "kn2", "outside": "host_network", "captured": null, "has_agent": false},
        ]});
        assert_eq!(serde_json::to_value(shop).unwrap(), expected);
    }

    #[test]
    fn the_exit_code_says_whose_turn_it_is() {
        let no_namespace = || EnrolmentError::NoNamespace {
            namespace: "shoop".to_owned(),
        };
        let forbidden = EnrolmentError::Forbidden {
            doing: "labelling".to_owned(),
            reason: "no".to_owned(),
        };
        let cases = [
            (CliError::from(no_namespace()), 2, "ADIT-A072"),
            (forbidden.into(), 1, "ADIT-A071"),
            (
                Unsettled::of(&roster([pod("web", None, false, true)])).into(),
                UNSETTLED,
                "ADIT-A074",
            ),
        ];
        for (error, exit, code) in cases {
            assert_eq!(error.exit_code(), exit, "{error}");
            assert!(error.to_string().contains(code), "{error}");
        }
    }
}

//! Every flow of every vector gets the verdict of the reference implementations, and the reason where it is unique.

use std::io::Read as _;

use adit_policy::commands::eval::eval;

struct Tally {
    documents: usize,
    flows: usize,
    wrong: Vec<String>,
}

fn run(family: &[u8], compare: impl Fn(&str, &str) -> bool) -> Tally {
    let mut text = String::new();
    flate2::read::GzDecoder::new(family)
        .read_to_string(&mut text)
        .expect("a gzip of UTF-8 text");
    let mut tally = Tally {
        documents: 0,
        flows: 0,
        wrong: Vec::new(),
    };
    for line in text.lines() {
        let document: serde_json::Value = serde_json::from_str(line).expect("a JSON document a line");
        let verdicts = eval(line).unwrap_or_else(|error| panic!("{}: {error}", document["id"]));
        tally.documents += 1;
        for (flow, got) in document["flows"].as_array().expect("flows").iter().zip(verdicts) {
            tally.flows += 1;
            let allowed = flow["allowed"].as_bool().expect("allowed");
            let decided_by = flow["decidedBy"].as_str().expect("decidedBy");
            if got.allowed != allowed || !compare(&got.decided_by, decided_by) {
                tally
                    .wrong
                    .push(format!("{} {flow}\n  got {got:#?}", document["id"]));
            }
        }
    }
    tally
}

fn check(tally: Tally, documents: usize, flows: usize) {
    let wrong = tally.wrong.len();
    for case in tally.wrong.iter().take(5) {
        eprintln!("{case}");
    }
    assert_eq!(wrong, 0, "of {} flows", tally.flows);
    assert_eq!(
        (tally.documents, tally.flows),
        (documents, flows),
        "all of them were run"
    );
}

/// Rules of Kubernetes' NetworkPolicies are a union: any rule that matches is as right as the one named, and so is
/// any policy that isolates.
fn same_but_for_unions(got: &str, expected: &str) -> bool {
    let blur = |text: &str| {
        text.split("; ")
            .map(
                |side| match side.split_once(" default/KubernetesNetworkPolicy/") {
                    Some((direction, rule)) => format!("{direction} union {}", rule.ends_with("/end")),
                    None => side.to_owned(),
                },
            )
            .collect::<Vec<_>>()
    };
    blur(got) == blur(expected)
}

#[test]
fn networkpolicy() {
    let tally = run(
        include_bytes!("vectors/networkpolicy.jsonl.gz"),
        same_but_for_unions,
    );
    check(tally, 400, 29_766);
}

#[test]
fn calico() {
    let tally = run(include_bytes!("vectors/calico.jsonl.gz"), same_but_for_unions);
    check(tally, 400, 29_732);
}

#[test]
fn clusternetworkpolicy() {
    let tally = run(
        include_bytes!("vectors/clusternetworkpolicy.jsonl.gz"),
        same_but_for_unions,
    );
    check(tally, 400, 29_985);
}

/// Policies of one action are a union too: which of several that match is named is anybody's choice.
fn same_kind(got: &str, expected: &str) -> bool {
    let kind = |text: &str| text.split('/').next().map(str::to_owned);
    kind(got) == kind(expected) && (got == expected || got.starts_with("AuthorizationPolicy/"))
}

#[test]
fn authorization() {
    let tally = run(include_bytes!("vectors/authorization.jsonl.gz"), same_kind);
    check(tally, 300, 21_632);
}

//! Whatever stands in the file, it is taken or refused with a report that can be shown.

use std::path::Path;

use adit_control::{Style, View, build, decode, parse};
use proptest::prelude::*;
use proptest::sample::Index;

const SHOP: &str = include_str!("../../examples/shop.yaml");
const TWO_NODES: &str = include_str!("../../examples/two-nodes.yaml");

/// A change to a text that leaves most of it in place, so that what follows is reached.
#[derive(Clone, Debug)]
enum Edit {
    Insert(Index, String),
    RemoveLine(Index),
    RepeatLine(Index),
    Indent(Index),
    Cut(Index),
}

fn edit() -> impl Strategy<Value = Edit> {
    let word = prop_oneof![
        "[ -~]{1,3}",
        "\\PC{1,3}",
        prop::sample::select(vec![
            "\n", "\t", ": ", "- ", "&a ", "*a ", "<<: ", "|", "é", "\u{feff}", "!!int ", "\0", "\r\n",
            "---\n", "70000", "~"
        ])
        .prop_map(str::to_owned),
    ];
    prop_oneof![
        4 => (any::<Index>(), word).prop_map(|(at, word)| Edit::Insert(at, word)),
        2 => any::<Index>().prop_map(Edit::RemoveLine),
        2 => any::<Index>().prop_map(Edit::RepeatLine),
        2 => any::<Index>().prop_map(Edit::Indent),
        1 => any::<Index>().prop_map(Edit::Cut),
    ]
}

fn apply(text: &str, edit: &Edit) -> String {
    let mut lines: Vec<String> = text.split_inclusive('\n').map(str::to_owned).collect();
    let (Edit::Insert(at, _)
    | Edit::RemoveLine(at)
    | Edit::RepeatLine(at)
    | Edit::Indent(at)
    | Edit::Cut(at)) = edit;
    let line = at.index(lines.len() + 1).min(lines.len().saturating_sub(1));
    match edit {
        Edit::Insert(at, word) => {
            let places: Vec<usize> = text
                .char_indices()
                .map(|(place, _)| place)
                .chain([text.len()])
                .collect();
            let place = places[at.index(places.len())];
            return format!("{}{word}{}", &text[..place], &text[place..]);
        }
        _ if lines.is_empty() => {}
        Edit::RemoveLine(_) => drop(lines.remove(line)),
        Edit::RepeatLine(_) => lines.insert(line, lines[line].clone()),
        Edit::Indent(_) => lines[line].insert_str(0, "  "),
        Edit::Cut(_) => lines.truncate(line),
    }
    lines.concat()
}

fn check(text: &str) -> Result<(), TestCaseError> {
    let path = Path::new("mesh.yaml");
    let report = match parse(path, text) {
        Ok(loaded) => {
            prop_assert!(!loaded.warnings.has_errors());
            let view = View {
                node: None,
                ready: &|_| true,
                joined: &[],
                generation: 0,
            };
            let snapshot = build(&loaded.mesh, view);
            for workload in snapshot.workloads.values() {
                prop_assert!(!workload.addresses.is_empty());
            }
            let file = decode(path, text).expect("what can be parsed can be decoded");
            let again = parse(path, &file.to_json());
            let again = again.map_err(|report| TestCaseError::fail(report.to_string()))?;
            prop_assert_eq!(again.mesh, loaded.mesh);
            loaded.warnings
        }
        Err(report) => {
            prop_assert!(report.has_errors());
            report
        }
    };
    for finding in report.diagnostics() {
        prop_assert!(report.position(finding).is_some());
        prop_assert!(
            !finding.message.contains("doesn't have the shape"),
            "the schema check has a gap: {}",
            report
        );
    }
    let (plain, color) = (report.render(Style::Plain), report.render(Style::Color));
    prop_assert!(plain.is_empty() == report.is_empty() && color.len() >= plain.len());
    Ok(())
}

proptest! {
    #[test]
    fn damaged_examples_are_survived(two: bool, edits in prop::collection::vec(edit(), 1..6)) {
        let text = edits.iter().fold((if two { TWO_NODES } else { SHOP }).to_owned(), |text, edit| apply(&text, edit));
        check(&text)?;
    }

    #[test]
    fn any_text_is_survived(text in "\\PC{0,200}") {
        check(&text)?;
    }

    #[test]
    fn any_yaml_like_text_is_survived(words in prop::collection::vec(
        prop::sample::select(vec!["a", "name", ": ", "\n", "- ", "  ", "[", "]", "{", "}", ", ", "\"", "'", "&x ", "*x", "<<", "|\n", "#", "1", "~", "!t "]), 0..60,
    )) {
        check(&words.concat())?;
    }
}

/// The nodes that aliases stand for multiply: they are counted, not expanded for ever.
#[test]
fn aliases_do_not_explode() {
    let mut text = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x]\n");
    for level in 1..12 {
        let before = format!("*a{}", level - 1);
        text += &format!("a{level}: &a{level} [{}]\n", vec![before; 9].join(", "));
    }
    assert!(parse(Path::new("mesh.yaml"), &text).is_err());
}

#[test]
fn deep_nesting_is_refused() {
    for open in ["[", "{a: ", "- "] {
        assert!(parse(Path::new("mesh.yaml"), &open.repeat(100_000)).is_err());
    }
}

/// A long file with a fault in each line has a report that people can read to its end.
#[test]
fn a_report_is_bounded() {
    let mut text = String::from("apiVersion: adit.dev/v1alpha1\nkind: Mesh\nname: shop\nnamespaces:\n");
    for index in 0..3000 {
        text += &format!("- {{name: n{index}}}\n");
    }
    text += "workloads:\n";
    for index in 0..3000 {
        text += &format!(
            "- {{name: w{index}, namespace: {}, command: [x]}}\n",
            "x".repeat(200)
        );
    }
    let report = parse(Path::new("mesh.yaml"), &text).unwrap_err();
    assert_eq!(report.diagnostics().len(), 50);
    let rendered = report.render(Style::Plain);
    assert!(rendered.len() < 50 * 2000, "{} bytes", rendered.len());
    assert!(
        rendered.ends_with("and 2950 more like these\n"),
        "{}",
        &rendered[rendered.len() - 100..]
    );
}

/// An error that isn't shown refuses the file all the same.
#[test]
fn warnings_do_not_crowd_out_errors() {
    let mut text =
        String::from("apiVersion: adit.dev/v1alpha1\nkind: Mesh\nname: shop\nnamespaces: [{name: shop}]\n");
    text += "workloads: [{name: w, namespace: shop, command: [w], labels: {app: w}}]\nservices:\n";
    for index in 0..60 {
        text +=
            &format!("- {{name: s{index}, namespace: shop, selector: {{app: x}}, ports: [{{port: 80}}]}}\n");
    }
    text += "- {name: last, namespace: shop, selector: {app: w}, ports: [{port: 80, targetPort: http}]}\n";
    assert!(parse(Path::new("mesh.yaml"), &text).unwrap_err().has_errors());
}

//! Samples as text, in the format of Prometheus ([text exposition 0.0.4]).
//!
//! [text exposition 0.0.4]: https://prometheus.io/docs/instrumenting/exposition_formats/

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::names::NAMES;

/// What comes before every name.
const PREFIX: &str = "adit_";

/// The `Content-Type` of [`Exposition::render`].
pub(super) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Samples, to be written down as one text.
#[derive(Debug, Default)]
pub(crate) struct Exposition {
    /// By name, then by labels as they are written.
    families: BTreeMap<String, BTreeMap<String, f64>>,
}

impl Exposition {
    /// What every process says of itself.
    pub(crate) fn new() -> Self {
        let mut all = Self::default();
        all.add("build_info", &[("version", env!("CARGO_PKG_VERSION"))], 1.0);
        all
    }

    /// Adds a sample. `name` is without prefix; one that isn't in the table of names has no help.
    pub(crate) fn add(&mut self, name: &str, labels: &[(&str, &str)], value: f64) {
        let mut written = String::new();
        for (key, value) in labels {
            let comma = if written.is_empty() { "" } else { "," };
            let _ = write!(written, "{comma}{key}=\"{}\"", escape(value));
        }
        self.families
            .entry(name.to_owned())
            .or_default()
            .insert(written, value);
    }

    /// Adds counts that are named as `adit dump` names them: `name`, or `name{key=value,key=value}`.
    pub(crate) fn add_counts(&mut self, counts: &BTreeMap<String, u64>) {
        for (name, count) in counts {
            let (name, rest) = name.split_once('{').unwrap_or((name, ""));
            let pairs = rest.trim_end_matches('}').split(',');
            let labels: Vec<_> = pairs.filter_map(|pair| pair.split_once('=')).collect();
            self.add(name, &labels, *count as f64);
        }
    }

    /// The text. Values are exact up to 2^53.
    pub(crate) fn render(&self) -> String {
        let mut text = String::new();
        for (name, samples) in &self.families {
            let kind = if name.ends_with("_total") {
                "counter"
            } else {
                "gauge"
            };
            if let Ok(index) = NAMES.binary_search_by(|(known, _)| (*known).cmp(name)) {
                let _ = writeln!(text, "# HELP {PREFIX}{name} {}", NAMES[index].1);
            }
            let _ = writeln!(text, "# TYPE {PREFIX}{name} {kind}");
            for (labels, value) in samples {
                let _ = match labels.as_str() {
                    "" => writeln!(text, "{PREFIX}{name} {value}"),
                    labels => writeln!(text, "{PREFIX}{name}{{{labels}}} {value}"),
                };
            }
        }
        text
    }

    /// The names of all samples.
    #[cfg(test)]
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.families.keys().map(String::as_str)
    }
}

fn escape(value: &str) -> String {
    value
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_written_in_order_each_family_once_with_its_help() {
        let mut all = Exposition::default();
        all.add("pods", &[], 3.0);
        all.add("kubernetes_watch_age_seconds", &[("kind", "pods")], 0.25);
        all.add_counts(&BTreeMap::from([
            (
                "passing_dropped_total{from=pod,reason=bad-checksum}".to_owned(),
                7,
            ),
            (
                "passing_dropped_total{from=wire,reason=bad-checksum}".to_owned(),
                0,
            ),
            ("flows_live".to_owned(), 2),
        ]));
        assert_eq!(
            all.render(),
            "# HELP adit_flows_live Flows that are open\n\
             # TYPE adit_flows_live gauge\n\
             adit_flows_live 2\n\
             # HELP adit_kubernetes_watch_age_seconds Since the kind was last known to be current; 0 while its watch is open\n\
             # TYPE adit_kubernetes_watch_age_seconds gauge\n\
             adit_kubernetes_watch_age_seconds{kind=\"pods\"} 0.25\n\
             # HELP adit_passing_dropped_total Packets of passing flows that were dropped, by side and reason\n\
             # TYPE adit_passing_dropped_total counter\n\
             adit_passing_dropped_total{from=\"pod\",reason=\"bad-checksum\"} 7\n\
             adit_passing_dropped_total{from=\"wire\",reason=\"bad-checksum\"} 0\n\
             # HELP adit_pods Pods that are captured\n\
             # TYPE adit_pods gauge\n\
             adit_pods 3\n"
        );
    }

    #[test]
    fn a_value_of_a_label_is_escaped() {
        let mut all = Exposition::default();
        all.add("ready", &[("why", "a \"b\"\\\nc")], 1.0);
        assert!(
            all.render().contains(r#"{why="a \"b\"\\\nc"}"#),
            "{}",
            all.render()
        );
    }

    #[test]
    fn the_table_is_in_order_and_every_help_is_one_line() {
        assert!(NAMES.is_sorted_by(|a, b| a.0 < b.0));
        for (name, help) in NAMES {
            assert!(!help.is_empty() && !help.contains(['\n', '\\']), "{name}");
        }
    }

    /// docs/metrics.md has a row for each metric, in the same order and words.
    #[test]
    fn the_documentation_lists_every_metric() {
        let documented: Vec<_> = include_str!("../../../docs/metrics.md")
            .lines()
            .filter(|line| line.starts_with("| `adit_"))
            .map(|line| {
                let cells: Vec<_> = line.trim_matches('|').split('|').map(str::trim).collect();
                let name = cells[0].trim_matches('`').trim_start_matches(PREFIX);
                (name.to_owned(), cells[1].to_owned())
            })
            .collect();
        let expected: Vec<_> = NAMES
            .iter()
            .map(|(name, help)| ((*name).to_owned(), (*help).to_owned()))
            .collect();
        assert_eq!(documented, expected);
    }
}

use std::sync::Arc;

use super::decode::Decoder;
use super::values;
use crate::codes;
use crate::document::{Node, Value};
use crate::inventory::LabelMap;
use crate::model::{Origin, PolicyKey, PolicyKind};

/// What stands above an object's `spec`.
pub(super) struct Header {
    pub(super) name: Arc<str>,
    pub(super) namespace: Option<Arc<str>>,
    pub(super) labels: LabelMap,
    pub(super) annotations: Vec<(String, String)>,
    /// Seconds since the epoch; 0 if it isn't written, which makes it the oldest, as in Istio.
    pub(super) created: i64,
    pub(super) origin: Origin,
}

impl Header {
    /// Reads `metadata`. Fields that have no bearing on policy are passed over: the API server writes many.
    pub(super) fn read(decoder: &mut Decoder<'_>, object: &Node, file: &Arc<str>) -> Self {
        let mut header = Self {
            name: "".into(),
            namespace: None,
            labels: LabelMap::new(),
            annotations: Vec::new(),
            created: 0,
            origin: Origin {
                file: Arc::clone(file),
                at: object.at,
            },
        };
        let Some(node) = object.get("metadata") else {
            decoder.fail(
                codes::MISSING_FIELD,
                object.at,
                "expected metadata, got no such field",
            );
            return header;
        };
        decoder.within("metadata", |decoder| header.read_metadata(decoder, node));
        header
    }

    fn read_metadata(&mut self, decoder: &mut Decoder<'_>, node: &Node) {
        let Some(mut fields) = decoder.fields(node) else {
            return;
        };
        if let Some(name) = decoder.required(&mut fields, "name", Decoder::shared) {
            self.name = name;
        }
        self.namespace = decoder
            .optional(&mut fields, "namespace", Decoder::shared)
            .filter(|name| !name.is_empty());
        self.labels = decoder
            .optional(&mut fields, "labels", values::labels)
            .unwrap_or_default();
        if let Some(Value::Map(annotations)) = fields.take("annotations").map(|node| &node.value) {
            self.annotations = annotations
                .iter()
                .filter_map(|(key, node)| Some((key.name.clone(), node.as_text()?.to_owned())))
                .collect();
        }
        self.created = fields
            .take("creationTimestamp")
            .and_then(Node::as_text)
            .and_then(seconds_since_epoch)
            .unwrap_or_default();
    }

    /// The namespace, `default` if none is written, as kubectl has it.
    pub(super) fn namespace_or_default(&self) -> Arc<str> {
        self.namespace.clone().unwrap_or_else(|| "default".into())
    }

    pub(super) fn key(&self, kind: PolicyKind, namespace: Option<&Arc<str>>, staged: bool) -> PolicyKey {
        PolicyKey {
            kind,
            namespace: namespace.cloned(),
            name: Arc::clone(&self.name),
            staged,
        }
    }

    pub(super) fn annotation(&self, key: &str) -> Option<&str> {
        self.annotations
            .iter()
            .find(|(name, _)| name == key)
            .map(|(_, value)| value.as_str())
    }
}

/// Seconds since the epoch of an RFC 3339 time; the API server writes whole seconds in UTC.
fn seconds_since_epoch(text: &str) -> Option<i64> {
    let (date, time) = text.strip_suffix('Z')?.split_once('T')?;
    let number = |text: &str| {
        text.parse::<i64>()
            .ok()
            .filter(|number| (0..10_000).contains(number))
    };
    let mut date = date.splitn(3, '-').map(number);
    let (year, month, day) = (date.next()??, date.next()??, date.next()??);
    let mut time = time.split('.').next()?.splitn(3, ':').map(number);
    let (hour, minute, second) = (time.next()??, time.next()??, time.next()??);
    // Days since 1970-01-01 in the proleptic Gregorian calendar, with years that start in March.
    let (year, month) = if month <= 2 {
        (year - 1, month + 9)
    } else {
        (year, month - 3)
    };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_era =
        year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + (153 * month + 2) / 5 + day - 1;
    let days = era * 146_097 + day_of_era - 719_468;
    Some(((days * 24 + hour) * 60 + minute) * 60 + second)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_seconds_since_the_epoch() {
        for (text, seconds) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2000-03-01T00:00:00Z", 951_868_800),
            ("2024-02-29T12:34:56Z", 1_709_210_096),
            ("2026-01-01T00:06:00.123Z", 1_767_225_960),
        ] {
            assert_eq!(seconds_since_epoch(text), Some(seconds), "{text}");
        }
        for bad in [
            "",
            "2026-01-01",
            "2026-01-01T00:00:00+01:00",
            "x-1-1T0:0:0Z",
            "99999-1-1T0:0:0Z",
        ] {
            assert_eq!(seconds_since_epoch(bad), None, "{bad}");
        }
    }
}

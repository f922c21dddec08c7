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
    /// Whether nobody can tell which namespace it is for: what is broken in it then concerns them all.
    pub(super) is_lost: bool,
    pub(super) labels: LabelMap,
    pub(super) annotations: Vec<(String, String)>,
    /// Seconds since the epoch; 0 if it isn't written, which makes it the oldest, as in Istio.
    pub(super) created: i64,
    pub(super) origin: Origin,
}

impl Header {
    /// Reads `metadata`. Fields that have no bearing on policy are passed over: the API server writes many.
    ///
    /// An object without a name gets one from `ordinal`, so that it doesn't replace another one without.
    pub(super) fn read(decoder: &mut Decoder<'_>, object: &Node, file: &Arc<str>, ordinal: usize) -> Self {
        let mut header = Self {
            name: format!("(unnamed {ordinal})").into(),
            namespace: None,
            is_lost: true,
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
        if let Some(name) = decoder.required(&mut fields, "name", |decoder, node| {
            decoder.word(node).map(Arc::from)
        }) {
            self.name = name;
        }
        let before = decoder.errors();
        self.namespace = decoder
            .optional(&mut fields, "namespace", Decoder::shared)
            .filter(|name| !name.is_empty());
        self.is_lost = decoder.errors() > before;
        self.labels = decoder
            .optional(&mut fields, "labels", values::labels)
            .unwrap_or_default();
        if let Some(Value::Map(annotations)) = fields.take("annotations").map(|node| &node.value) {
            self.annotations = annotations
                .iter()
                .filter_map(|(key, node)| Some((key.name.clone(), node.as_text()?.to_owned())))
                .collect();
        }
        self.created = decoder
            .optional(&mut fields, "creationTimestamp", timestamp)
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

/// A time at which an object was created. Which of two policies counts may hang on it, so a wrong one isn't passed over.
fn timestamp(decoder: &mut Decoder<'_>, node: &Node) -> Option<i64> {
    let text = decoder.text(node)?;
    let seconds = seconds_since_epoch(text);
    if seconds.is_none() {
        let message = format!("expected a time such as 2026-01-31T12:00:00Z, got {text:?}");
        decoder.fail(codes::BAD_VALUE, node.at, message);
    }
    seconds
}

/// Seconds since the epoch of an RFC 3339 time. The API server writes whole seconds in UTC; fractions are cut off.
fn seconds_since_epoch(text: &str) -> Option<i64> {
    let number = |text: &str, most: i64| {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let number = digits.then(|| text.parse::<i64>().ok()).flatten()?;
        (number <= most).then_some(number)
    };
    let (date, time) = text.split_once(['T', 't'])?;
    let (time, offset) = match time.strip_suffix(['Z', 'z']) {
        Some(time) => (time, 0),
        None => {
            let at = time.rfind(['+', '-'])?;
            let (hours, minutes) = time[at + 1..].split_once(':')?;
            let offset = number(hours, 23)? * 3600 + number(minutes, 59)? * 60;
            (
                &time[..at],
                if time[at..].starts_with('+') {
                    offset
                } else {
                    -offset
                },
            )
        }
    };
    let mut date = date.splitn(3, '-');
    let year = number(date.next()?, 9_999)?;
    let month = number(date.next()?, 12).filter(|month| *month > 0)?;
    let day = number(date.next()?, 31).filter(|day| *day > 0)?;
    let (time, fraction) = time.split_once('.').unwrap_or((time, "0"));
    number(fraction, i64::MAX)?;
    let mut time = time.splitn(3, ':');
    let (hour, minute) = (number(time.next()?, 23)?, number(time.next()?, 59)?);
    let second = number(time.next()?, 60)?;
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
    Some(((days * 24 + hour) * 60 + minute) * 60 + second - offset)
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
            ("2026-01-01T02:06:00+02:00", 1_767_225_960),
            ("2025-12-31T18:36:00.5-05:30", 1_767_225_960),
        ] {
            assert_eq!(seconds_since_epoch(text), Some(seconds), "{text}");
        }
        for bad in [
            "",
            "2026-01-01",
            "2026-01-01T00:00:00",
            "2026-01-01T00:00:00+0100",
            "2026-13-01T00:00:00Z",
            "2026-01-00T00:00:00Z",
            "2026-01-01T24:00:00Z",
            "+026-01-01T00:00:00Z",
            "x-1-1T0:0:0Z",
            "99999-1-1T0:0:0Z",
        ] {
            assert_eq!(seconds_since_epoch(bad), None, "{bad}");
        }
    }
}

//! Istio's PeerAuthentication.

use super::decode::Decoder;
use super::header::Header;
use super::istio::match_labels;
use crate::codes;
use crate::document::{Node, Value};
use crate::model::{Body, MtlsMode, PeerAuthentication, PeerLevel, Policy, PolicyKind, mesh_subject};

/// Reads the `spec` of a PeerAuthentication.
pub(super) fn peer_authentication(
    decoder: &mut Decoder<'_>,
    header: &Header,
    spec: Option<&Node>,
    root: &str,
) -> Policy {
    let namespace = header.namespace_or_default();
    let in_root = *namespace == *root;
    let mut labels = None;
    let mut subject_is_sound = true;
    let mut mode = None;
    let mut ports = Vec::new();
    if let Some(mut fields) = spec.and_then(|spec| decoder.fields(spec)) {
        let before = decoder.errors();
        labels = decoder.optional(&mut fields, "selector", match_labels).flatten();
        subject_is_sound = decoder.errors() == before;
        mode = decoder.optional(&mut fields, "mtls", mutual_tls).flatten();
        ports = decoder
            .optional(&mut fields, "portLevelMtls", port_modes)
            .unwrap_or_default();
        let at = fields.at;
        decoder.finish(fields);
        if labels.is_some() && in_root {
            decoder.warn(
                codes::IGNORED,
                at,
                "a selector in the root namespace: Istio ignores the whole policy",
            );
        } else if labels.is_none() && !ports.is_empty() {
            let message = "expected a selector with labels beside portLevelMtls, got none";
            decoder.fail(codes::CONTRADICTION, at, message);
        }
    }
    let broken = decoder.first_error();
    if broken.is_some() {
        mode = Some(MtlsMode::Strict);
        ports.clear();
    }
    let level = match (labels.is_some() && subject_is_sound, in_root) {
        (true, true) if broken.is_none() => PeerLevel::Ignored,
        (_, true) => PeerLevel::Mesh,
        (true, false) => PeerLevel::Workload,
        (false, false) => PeerLevel::Namespace,
    };
    if level != PeerLevel::Workload {
        ports.clear();
    }
    let scope = (!in_root).then_some(&namespace);
    Policy {
        key: header.key(PolicyKind::PeerAuthentication, Some(&namespace), false),
        subject: mesh_subject(scope, labels.filter(|_| level == PeerLevel::Workload)),
        body: Body::PeerAuthentication(PeerAuthentication {
            level,
            mode,
            ports: ports.into(),
            // A broken one must count, so it is older than all.
            created: if broken.is_some() {
                i64::MIN
            } else {
                header.created
            },
        }),
        origin: header.origin.clone(),
        broken,
    }
}

/// `mode`; the inner `None` inherits.
fn mutual_tls(decoder: &mut Decoder<'_>, node: &Node) -> Option<Option<MtlsMode>> {
    let modes = [
        ("UNSET", None),
        ("DISABLE", Some(MtlsMode::Disable)),
        ("PERMISSIVE", Some(MtlsMode::Permissive)),
        ("STRICT", Some(MtlsMode::Strict)),
    ];
    let mut fields = decoder.fields(node)?;
    let mode = decoder.optional(&mut fields, "mode", |decoder, node| decoder.choice(node, &modes));
    decoder.finish(fields);
    Some(mode.flatten())
}

fn port_modes(decoder: &mut Decoder<'_>, node: &Node) -> Option<Vec<(u16, Option<MtlsMode>)>> {
    let Value::Map(entries) = &node.value else {
        let message = format!("expected a mapping of ports, got {}", node.value.describe());
        decoder.fail(codes::WRONG_TYPE, node.at, message);
        return None;
    };
    let mut out = Vec::new();
    for (key, value) in entries {
        decoder.within(&key.name, |decoder| match key.name.parse() {
            Ok(port) if port > 0 => out.extend(mutual_tls(decoder, value).map(|mode| (port, mode))),
            _ => {
                let message = format!("expected a port from 1 to 65535, got {:?}", key.name);
                decoder.fail(codes::BAD_PORT, key.at, message);
            }
        });
    }
    out.sort_unstable_by_key(|(port, _)| *port);
    Some(out)
}

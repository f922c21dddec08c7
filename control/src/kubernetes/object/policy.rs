//! Objects that the policy engine reads.

use serde_json::Value;

use super::Malformed;
use crate::kubernetes::kind::Kind;
use crate::mesh::PolicyDocument;

/// The object as a document of its own, without what has no bearing on policy: who wrote which field, the
/// text that kubectl applied, the status.
pub(super) fn document(kind: Kind, json: &str) -> Result<PolicyDocument, Malformed> {
    let mut object: Value = serde_json::from_str(json)?;
    let Some(fields) = object.as_object_mut() else {
        return Err(Malformed::Field {
            field: "object",
            reason: "expected a mapping".to_owned(),
        });
    };
    // The items of a list don't say what they are.
    fields.insert("apiVersion".to_owned(), kind.api_version().into());
    fields.insert("kind".to_owned(), kind.name.into());
    fields.remove("status");
    let mut name = String::new();
    if let Some(metadata) = fields.get_mut("metadata").and_then(Value::as_object_mut) {
        for noise in ["managedFields", "resourceVersion", "generation"] {
            metadata.remove(noise);
        }
        if let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) {
            annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
        }
        for part in ["namespace", "name"] {
            if let Some(part) = metadata.get(part).and_then(Value::as_str) {
                name = format!("{name}/{part}");
            }
        }
    }
    Ok(PolicyDocument {
        path: format!("{kind}{name}").into(),
        text: object.to_string(),
    })
}

//! Which of the kinds that not every cluster has are there.

use std::collections::BTreeSet;

use http::StatusCode;
use kube::Client;
use serde::Deserialize;

use super::api::{self, ApiError};
use super::kind::{FAMILIES, Family, Kind};

/// What the API server serves.
#[derive(Debug, Default)]
pub(super) struct Served {
    /// The kinds to watch.
    pub(super) kinds: BTreeSet<Kind>,
    /// Why it isn't known for some of them, if so.
    pub(super) error: Option<String>,
}

#[derive(Deserialize)]
struct ResourceList {
    #[serde(default)]
    resources: Vec<Resource>,
}

#[derive(Deserialize)]
struct Resource {
    name: String,
}

/// Asks for every family's kinds. Of two versions that serve one kind, the one in `watched` is kept, so that
/// nothing is unknown for the time of a change.
pub(super) async fn served(client: &Client, watched: &BTreeSet<Kind>) -> Served {
    let mut served = Served::default();
    for family in &FAMILIES {
        let mut offers = Vec::new();
        let mut unknown = None;
        for (group, version) in family.served_as {
            match offered(client, family, (group, version)).await {
                Ok(kinds) => offers.push(kinds),
                Err(error) => {
                    unknown = Some(format!("which kinds {group}/{version} has: {error}"));
                    offers.push(kept(family, (group, version), watched));
                }
            }
        }
        let chosen = choose(&offers, watched);
        // A version that doesn't answer is of no account where another one serves the same objects.
        if chosen.is_empty() {
            served.error = served.error.or(unknown);
        }
        served.kinds.extend(chosen);
    }
    served
}

/// One of each kind: the watched one, or else the first that's offered.
fn choose(offers: &[Vec<Kind>], watched: &BTreeSet<Kind>) -> BTreeSet<Kind> {
    let all = || offers.iter().flatten().copied();
    let names: BTreeSet<&str> = all().map(|kind| kind.plural).collect();
    let of_name = |plural: &str| {
        let mut named = all().filter(|kind| kind.plural == plural);
        let first = named.clone().next();
        named.find(|kind| watched.contains(kind)).or(first)
    };
    names.into_iter().filter_map(of_name).collect()
}

/// What is watched is taken to be there while nobody can tell.
fn kept(family: &Family, version: (&'static str, &'static str), watched: &BTreeSet<Kind>) -> Vec<Kind> {
    family
        .kinds_of(version)
        .filter(|kind| watched.contains(kind))
        .collect()
}

async fn offered(
    client: &Client,
    family: &Family,
    version: (&'static str, &'static str),
) -> Result<Vec<Kind>, ApiError> {
    let (group, number) = version;
    let body = match api::get(client, &format!("/apis/{group}/{number}")).await {
        Ok(body) => body,
        Err(error) if error.is(StatusCode::NOT_FOUND) => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let list: ResourceList = serde_json::from_slice(&body)?;
    let is_listed = |kind: &Kind| list.resources.iter().any(|resource| resource.name == kind.plural);
    Ok(family.kinds_of(version).filter(is_listed).collect())
}

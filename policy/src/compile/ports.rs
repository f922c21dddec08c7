//! Which links of a long chain a flow to a certain port must look at.

use super::chain::Link;

/// The links of one direction of a chain by the port that they are about.
#[derive(Debug)]
pub(crate) struct PortIndex {
    /// Links about one port: the port and the link's place, sorted.
    narrow: Box<[(u16, u32)]>,
    /// The places of all others, the ends of tiers among them, sorted.
    wide: Box<[u32]>,
}

impl PortIndex {
    pub(crate) fn new(links: &[Link]) -> Self {
        let (mut narrow, mut wide) = (Vec::new(), Vec::new());
        for (place, link) in (0u32..).zip(links) {
            match link {
                Link::Rule(gate) if let Some(port) = gate.port() => narrow.push((port, place)),
                Link::Rule(_) | Link::TierEnd { .. } => wide.push(place),
            }
        }
        narrow.sort_unstable();
        Self {
            narrow: narrow.into(),
            wide: wide.into(),
        }
    }

    /// The places of the links that a flow to `port` may match, and of the ends of tiers, in order.
    pub(crate) fn places(&self, port: u16) -> impl Iterator<Item = u32> {
        let start = self.narrow.partition_point(|(other, _)| *other < port);
        let mut narrow = self.narrow[start..]
            .iter()
            .take_while(move |(other, _)| *other == port)
            .map(|(_, place)| *place)
            .peekable();
        let mut wide = self.wide.iter().copied().peekable();
        std::iter::from_fn(move || match (narrow.peek(), wide.peek()) {
            (Some(one), Some(other)) if one < other => narrow.next(),
            (Some(_), None) => narrow.next(),
            (_, _) => wide.next(),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::gate::Parts;
    use crate::model::{Action, End, PortMatch, PortSpec, Rule};

    fn link(ports: Option<(u16, u16)>) -> Link {
        let Some((first, last)) = ports else {
            return Link::TierEnd { passes: true };
        };
        let port = PortMatch {
            protocol: None,
            port: PortSpec::Range(first, last),
        };
        let destination = End {
            ports: Some([port].into()),
            ..End::default()
        };
        let rule = Rule {
            action: Action::Allow,
            protocol: None,
            not_protocol: None,
            version: None,
            icmp: None,
            not_icmp: None,
            source: None,
            destination: Some(Box::new(destination)),
            line: 0,
        };
        Link::Rule(Parts::of(&rule).gate(None, None))
    }

    proptest! {
        #[test]
        fn nothing_that_may_match_is_left_out_and_the_order_stays(
            ports in proptest::collection::vec(proptest::option::of((0u16..6, 0u16..3)), 0..40),
        ) {
            let ports: Vec<_> = ports.into_iter().map(|one| one.map(|(first, more)| (first, first + more))).collect();
            let links: Vec<Link> = ports.iter().copied().map(link).collect();
            let index = PortIndex::new(&links);
            for port in 0..9 {
                let wanted = (0u32..).zip(&ports).filter_map(|(place, one)| match one {
                    Some((first, last)) if first == last && *first != port => None,
                    _ => Some(place),
                });
                prop_assert_eq!(index.places(port).collect::<Vec<_>>(), wanted.collect::<Vec<_>>());
            }
        }
    }
}

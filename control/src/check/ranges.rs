//! Checks of address ranges.

use ipnet::IpNet;

use crate::address::{AddressRange, Ranges};
use crate::codes;
use crate::diagnostic::{Finding, Findings};
use crate::file::AddressesFile;
use crate::tree::At;

/// The prefix lengths that a range may have, by IP version. The shortest are a bound on sense, the longest leave
/// room for the DNS responder's address and a few others.
const V4_PREFIXES: std::ops::RangeInclusive<u8> = 8..=27;
const V6_PREFIXES: std::ops::RangeInclusive<u8> = 32..=123;

/// Checks the ranges; those left out have their defaults.
pub(super) fn check(file: Option<&AddressesFile>, at: &At, findings: &mut Findings<'_>) -> Ranges {
    let defaults = Ranges::default();
    let Some(file) = file else {
        return defaults;
    };
    let pods = range(&file.pods, defaults.pods, &at.field("pods"), findings);
    let services = range(&file.services, defaults.services, &at.field("services"), findings);
    let overlap = pods.nets().find_map(|pod| {
        let other = services
            .nets()
            .find(|net| net.contains(&pod) || pod.contains(net))?;
        Some((pod, other))
    });
    if let Some((pod, service)) = overlap {
        let finding = Finding {
            message: format!("the ranges of workloads, {pod}, and of services, {service}, overlap"),
            label: "workloads".to_owned(),
            fix: "choose ranges that don't overlap".to_owned(),
            also: Some((&at.field("services"), "services")),
        };
        findings.error(&codes::RANGE_OVERLAP, &at.field("pods"), finding);
    }
    if findings.report.has_errors() {
        // A range that couldn't be read isn't one that's missing.
        return Ranges { pods, services };
    }
    if pods.v4.is_some() != services.v4.is_some() || pods.v6.is_some() != services.v6.is_some() {
        let finding = Finding {
            message: "workloads and services need ranges of the same IP versions".to_owned(),
            label: versions("workloads have", &pods),
            fix: "give both an IPv4 range, an IPv6 range, or one of each".to_owned(),
            also: None,
        };
        findings.error(&codes::BAD_RANGE, &at.field("pods"), finding);
    }
    Ranges { pods, services }
}

fn versions(who: &str, range: &AddressRange) -> String {
    let both = range.v4.is_some() && range.v6.is_some();
    let which = if both {
        "both"
    } else if range.v4.is_some() {
        "IPv4 only"
    } else {
        "IPv6 only"
    };
    format!("{who} {which}")
}

fn range(texts: &[String], default: AddressRange, at: &At, findings: &mut Findings<'_>) -> AddressRange {
    let mut range = AddressRange { v4: None, v6: None };
    for (index, text) in texts.iter().enumerate() {
        let problem = match parse(text) {
            Ok(IpNet::V4(net)) => range.v4.replace(net).map(|_| "a second IPv4 range".to_owned()),
            Ok(IpNet::V6(net)) => range.v6.replace(net).map(|_| "a second IPv6 range".to_owned()),
            Err(problem) => Some(problem),
        };
        if let Some(problem) = problem {
            let finding = Finding {
                message: format!("expected an address range, got {text:?}: {problem}"),
                label: problem,
                fix: fix(text),
                also: None,
            };
            findings.error(&codes::BAD_RANGE, &at.index(index), finding);
        }
    }
    match range {
        AddressRange { v4: None, v6: None } => default,
        range => range,
    }
}

fn parse(text: &str) -> Result<IpNet, String> {
    let net: IpNet = text
        .parse()
        .map_err(|_| "not an address and a prefix length".to_owned())?;
    if net.trunc() != net {
        return Err("bits are set behind the prefix".to_owned());
    }
    let prefixes = match net {
        IpNet::V4(_) => V4_PREFIXES,
        IpNet::V6(_) => V6_PREFIXES,
    };
    if !prefixes.contains(&net.prefix_len()) {
        return Err(format!(
            "the prefix length must be {} to {}",
            prefixes.start(),
            prefixes.end()
        ));
    }
    let reserved = net.addr().is_multicast() || net.addr().is_loopback() || net.addr().is_unspecified();
    let broadcast =
        matches!(net, IpNet::V4(net) if net.addr().octets()[0] >= 240 || net.addr().octets()[0] == 127);
    match reserved || broadcast {
        true => Err("not a unicast range that workloads can have".to_owned()),
        false => Ok(net),
    }
}

fn fix(text: &str) -> String {
    match text.parse::<IpNet>() {
        Ok(net) if net.trunc() != net && parse(&net.trunc().to_string()).is_ok() => {
            format!("write `{}`", net.trunc())
        }
        _ => "write it as `10.77.0.0/16` or `fd77:6164:6974:77::/64`".to_owned(),
    }
}

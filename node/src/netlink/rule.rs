//! Routing rules: which table a packet's route is looked for in, by where it came from and its ports.

use std::io;
use std::ops::RangeInclusive;

use super::Rtnetlink;
use super::message::{IpFamily, Request, zero_terminated};

const RTM_NEWRULE: u16 = 32;
const RTM_DELRULE: u16 = 33;

const FRA_IIFNAME: u16 = 3;
const FRA_PRIORITY: u16 = 6;
const FRA_TABLE: u16 = 15;
const FRA_IP_PROTO: u16 = 22;
const FRA_SPORT_RANGE: u16 = 23;
const FRA_DPORT_RANGE: u16 = 24;
const FR_ACT_TO_TBL: u8 = 1;

/// Bytes of `struct fib_rule_hdr`: family, destination bits, source bits, TOS, table, two reserved, action (all u8),
/// flags u32.
const BODY: usize = 12;

/// What a packet must be, all of it, and the table that it is looked up in then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rule<'a> {
    pub(crate) family: IpFamily,
    /// Lower ones are asked first. Several rules may have the same.
    pub(crate) priority: u32,
    /// The interface that it came in through.
    pub(crate) input: Option<&'a str>,
    /// IP protocol number. Rules with one leave ARP's own lookups alone.
    pub(crate) protocol: Option<u8>,
    /// From 1 to 65534: the kernel takes 65535 for no port, and refuses it.
    pub(crate) source_ports: Option<RangeInclusive<u16>>,
    /// Likewise.
    pub(crate) destination_ports: Option<RangeInclusive<u16>>,
    pub(crate) table: u32,
}

impl Rtnetlink {
    /// Adds a rule. One that is there stays.
    pub(crate) fn ensure_rule(&mut self, rule: &Rule<'_>) -> io::Result<()> {
        let request = Request::create(RTM_NEWRULE, &body(rule));
        self.socket.ensure(&with_attributes(request, rule))
    }

    /// Removes a rule, if there is one.
    pub(crate) fn remove_rule(&mut self, rule: &Rule<'_>) -> io::Result<()> {
        let request = Request::change(RTM_DELRULE, &body(rule));
        match self.socket.call(&with_attributes(request, rule)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }
}

fn body(rule: &Rule<'_>) -> [u8; BODY] {
    let mut body = [0; BODY];
    body[0] = rule.family as u8;
    body[7] = FR_ACT_TO_TBL;
    body
}

fn with_attributes(mut request: Request, rule: &Rule<'_>) -> Request {
    request = request
        .attribute(FRA_PRIORITY, &rule.priority.to_ne_bytes())
        .attribute(FRA_TABLE, &rule.table.to_ne_bytes());
    if let Some(input) = rule.input {
        request = request.attribute(FRA_IIFNAME, &zero_terminated(input));
    }
    if let Some(protocol) = rule.protocol {
        request = request.attribute(FRA_IP_PROTO, &[protocol]);
    }
    if let Some(ports) = &rule.source_ports {
        request = request.attribute(FRA_SPORT_RANGE, &port_range(ports));
    }
    if let Some(ports) = &rule.destination_ports {
        request = request.attribute(FRA_DPORT_RANGE, &port_range(ports));
    }
    request
}

/// `struct fib_rule_port_range`: first and last, in the machine's own order.
fn port_range(ports: &RangeInclusive<u16>) -> [u8; 4] {
    let [a, b] = ports.start().to_ne_bytes();
    let [c, d] = ports.end().to_ne_bytes();
    [a, b, c, d]
}

#[cfg(test)]
#[cfg(target_endian = "little")]
mod tests {
    use super::*;

    #[test]
    fn a_rule_says_all_that_a_packet_must_be() {
        let rule = Rule {
            family: IpFamily::V4,
            priority: 12,
            input: Some("eth0"),
            protocol: Some(6),
            source_ports: Some(61440..=65534),
            destination_ports: Some(8080..=8080),
            table: LOCAL,
        };
        let bytes = with_attributes(Request::create(RTM_NEWRULE, &body(&rule)), &rule).finish(1);
        assert_eq!(
            bytes[16..],
            [
                2, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, // fib_rule_hdr
                8, 0, 6, 0, 12, 0, 0, 0, // FRA_PRIORITY
                8, 0, 15, 0, 255, 0, 0, 0, // FRA_TABLE
                9, 0, 3, 0, b'e', b't', b'h', b'0', 0, 0, 0, 0, // FRA_IIFNAME
                5, 0, 22, 0, 6, 0, 0, 0, // FRA_IP_PROTO
                8, 0, 23, 0, 0x00, 0xf0, 0xfe, 0xff, // FRA_SPORT_RANGE
                8, 0, 24, 0, 0x90, 0x1f, 0x90, 0x1f, // FRA_DPORT_RANGE
            ]
        );
    }

    const LOCAL: u32 = crate::netlink::LOCAL_TABLE;
}

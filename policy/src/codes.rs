//! The findings that this crate makes, each with its cause and its fix.

use adit_flow::Code;

macro_rules! codes {
    ($($name:ident = $code:literal, $summary:literal, $cause:literal, $fix:literal;)+) => {
        $(
            #[doc = $summary]
            pub const $name: &Code = &Code { code: $code, summary: $summary, cause: $cause, fix: $fix };
        )+
        /// Every finding, in order of its code.
        pub const ALL: &[&Code] = &[$($name),+];
    };
}

codes! {
    UNREADABLE = "ADIT-P001", "the text is no YAML or JSON",
        "the file breaks the syntax before any object can be read from it",
        "correct the syntax at the line named; nothing of this file is used until then";
    UNKNOWN_KIND = "ADIT-P002", "an object of a kind or version that adit doesn't know",
        "the apiVersion or the kind is misspelt, too new or too old, or the object has nothing to do with policy",
        "check apiVersion and kind; move objects that aren't about policy to another file; until then what looks like a policy denies";
    UNKNOWN_FIELD = "ADIT-P003", "a field that the API doesn't have",
        "a misspelt field, one at the wrong depth, or one from a newer API",
        "correct or remove the field; until then the policy denies, since the field may restrict it";
    WRONG_TYPE = "ADIT-P004", "a value of the wrong type",
        "a list where a mapping belongs, a number where a text belongs, or the like",
        "write the value as the message says";
    MISSING_FIELD = "ADIT-P005", "a field that must be there isn't",
        "the API requires it",
        "add the field";
    BAD_ADDRESS = "ADIT-P006", "no address or CIDR",
        "the text isn't an IP address with a prefix length in range, or an exception lies outside its block",
        "write an address as 10.1.2.3 and a range as 10.1.0.0/16 or fd00::/64";
    BAD_SELECTOR = "ADIT-P007", "a selector that can't be read",
        "the selector breaks the grammar, or names an operator or value that the grammar doesn't have",
        "correct the selector at the character named";
    BAD_PORT = "ADIT-P008", "an impossible port",
        "the number is out of range, the range ends before it starts, or a name is none",
        "use a number from 1 to 65535, or a port name of at most 63 of [a-z0-9-]";
    BAD_VALUE = "ADIT-P009", "a value outside the set that the API allows",
        "a misspelt action, protocol, type, mode or tier, or a number out of range",
        "use one of the values that the message lists; case matters";
    CONTRADICTION = "ADIT-P010", "fields that can't go together",
        "ports without a protocol that has ports, ICMP fields on another protocol, two of what may be one, or the like",
        "remove one of the fields named";
    UNKNOWN_TIER = "ADIT-P011", "a policy in a tier that doesn't exist",
        "no Tier object of that name was given",
        "add the Tier, or correct spec.tier; until then the policy denies ahead of all tiers";
    DUPLICATE = "ADIT-P012", "an object given twice",
        "two objects have the same kind, namespace and name, or two workloads the same address",
        "remove one of them; the one read last counts, the address stays with the first";
    NOT_ENFORCED = "ADIT-P013", "a rule that isn't enforced at layer 4",
        "it asks for HTTP attributes, a waypoint or an external authorizer, which this path doesn't have",
        "express the rule by identity, address and port, or set l7WithoutWaypoint: deny to fail closed";
    UNSUPPORTED = "ADIT-P014", "a field that adit can't judge",
        "the API has the field, but it asks for something that the engine isn't told, such as host names or nodes",
        "express the rule by pods, namespaces or networks; until then the rule can't allow, and denies if it denies";
    IGNORED = "ADIT-P015", "something written that has no effect",
        "rules of a direction that the policy's types leave out, a selector where the API ignores it, or the like",
        "remove it, or add the direction to the types";
    SELECTS_NOTHING = "ADIT-P016", "a policy that selects no workload",
        "no workload that is known has the labels, often for a misspelt label",
        "compare the selector with the workloads' labels";
    UNREACHABLE_RULE = "ADIT-P017", "a rule that can never decide",
        "an earlier rule of the same policy matches everything",
        "move it up, or remove it";
    UNKNOWN_PORT_NAME = "ADIT-P018", "a port name that no workload declares",
        "no container port has the name, so the rule can't match by it",
        "name the port in the workload, or use its number";
    UNKNOWN_WORKLOAD = "ADIT-P019", "a workload or address that isn't known",
        "the name isn't among the workloads given, or the text isn't an address",
        "write NAMESPACE/NAME of a workload that is given, or an IP address";
    BAD_CASE = "ADIT-P020", "a test case that can't be run",
        "a field of the case is missing or unknown",
        "write from, to and expect; see the documentation of adit policy test";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_distinct_and_in_order() {
        assert!(ALL.windows(2).all(|pair| pair[0].code < pair[1].code));
    }
}

//! What can be wrong with a mesh file, by code. Codes are an interface: they are never reused.

use adit_flow::Code;

macro_rules! codes {
    ($($name:ident = $code:literal { summary: $summary:literal, cause: $cause:literal, fix: $fix:literal $(,)? })+) => {
        $(#[doc = $summary] pub(crate) static $name: Code =
            Code { code: $code, summary: $summary, cause: $cause, fix: $fix };)+

        /// Every code of the mesh file, in order, for `adit explain`.
        pub static CODES: &[&Code] = &[$(&$name),+];
    };
}

codes! {
    UNREADABLE = "ADIT-M001" {
        summary: "the mesh file can't be read",
        cause: "It doesn't exist, may not be read by this user, isn't UTF-8 text, or has more than 1 MiB.",
        fix: "Check the path and its permissions: `ls -l FILE`.",
    }
    SYNTAX = "ADIT-M002" {
        summary: "the mesh file isn't one YAML document",
        cause: "A quote or bracket isn't closed, lines of one block are indented differently, tabs are used for indentation, or a second document follows after `---`.",
        fix: "Look at the marked place and the line before it. A mesh file is exactly one document.",
    }
    UNKNOWN_FIELD = "ADIT-M003" {
        summary: "a field that the format doesn't have",
        cause: "It is misspelt, indented too far or too little, or belongs to a newer version of adit. Unknown fields are refused because a misspelt `replicas` that is silently ignored is found much later.",
        fix: "Use one of the fields that the message lists. docs/mesh.schema.json describes them all.",
    }
    WRONG_TYPE = "ADIT-M004" {
        summary: "a value of the wrong type",
        cause: "YAML takes an unquoted 8080 for a number and true for a boolean, where the format wants text; or a list stands where one value is wanted, or the other way round.",
        fix: "Write a value of the type that the message names; put quotes round text that looks like something else.",
    }
    MISSING_FIELD = "ADIT-M005" {
        summary: "a required field is missing or empty",
        cause: "It was left out, or its value was.",
        fix: "Add it.",
    }
    BAD_CHOICE = "ADIT-M006" {
        summary: "a value that isn't one of those allowed",
        cause: "It is misspelt, its letters are of the wrong case, or it belongs to a newer version of adit.",
        fix: "Use one of the values that the message lists.",
    }
    OUT_OF_RANGE = "ADIT-M007" {
        summary: "a number outside its bounds",
        cause: "Ports are 1 to 65535; replicas, times and thresholds have bounds of their own.",
        fix: "Choose a number within the bounds that the message names.",
    }
    DUPLICATE_FIELD = "ADIT-M008" {
        summary: "a field stands twice in one mapping",
        cause: "Only one of the two values could count, and which one differs from parser to parser.",
        fix: "Remove one of them.",
    }
    BAD_NAME = "ADIT-M009" {
        summary: "a name that isn't a DNS label",
        cause: "Names of the mesh, of namespaces, workloads, services and service accounts become parts of host names and of SPIFFE ids. A label has 1 to 63 of the characters a-z, 0-9 and -, and begins and ends with a letter or a digit (RFC 1123). Of a workload with replicas the number counts too.",
        fix: "Use lower-case letters, digits and dashes.",
    }
    DUPLICATE_NAME = "ADIT-M010" {
        summary: "two things of one kind have one name",
        cause: "Names are unique: namespaces and nodes in the mesh, workloads and services in their namespace. A workload `web` with replicas is called `web-0`, `web-1` and so on, and another workload may not be called that.",
        fix: "Rename one of them.",
    }
    UNKNOWN_NAMESPACE = "ADIT-M011" {
        summary: "a namespace that the mesh doesn't have",
        cause: "It is misspelt, or missing under `namespaces`.",
        fix: "Correct the name, or add the namespace.",
    }
    UNKNOWN_NODE = "ADIT-M012" {
        summary: "a node that the mesh doesn't have, or none where one is needed",
        cause: "The name is misspelt or missing under `nodes`; or the mesh has nodes and the workload doesn't say which of them runs it, so that every node would.",
        fix: "Set `nodeName` to one of the nodes.",
    }
    BAD_TRUST_DOMAIN = "ADIT-M013" {
        summary: "not a trust domain",
        cause: "A trust domain has 1 to 255 of the characters a-z, 0-9, dot, dash and underscore (SPIFFE-ID section 2.1). It has no scheme, port or path.",
        fix: "Write only the name, such as `cluster.local`.",
    }
    BAD_ADDRESS = "ADIT-M014" {
        summary: "not an address and port that can be connected to",
        cause: "Other nodes connect there, so it needs an IP address that they reach and a port: not a host name, 0.0.0.0 or a multicast address.",
        fix: "Write it as `192.0.2.7:15008` or `[2001:db8::7]:15008`.",
    }
    BAD_RANGE = "ADIT-M015" {
        summary: "not a usable address range",
        cause: "A range is a network address and a prefix length; it must not have bits set behind its prefix, and must be unicast. IPv4 ranges are /8 to /27, IPv6 ranges /32 to /123, and a list holds one of each version at most. Workloads and services need ranges of the same versions.",
        fix: "Write it as `10.77.0.0/16` or `fd77:6164:6974:77::/64`.",
    }
    RANGE_OVERLAP = "ADIT-M016" {
        summary: "the ranges of workloads and services overlap",
        cause: "One address would belong to two.",
        fix: "Choose ranges that don't overlap.",
    }
    RANGE_EXHAUSTED = "ADIT-M017" {
        summary: "a range has too few addresses",
        cause: "Workloads of the file take theirs from the lower half of the range for workloads; the upper half is for those that join at run time, with a share for each node.",
        fix: "Choose a larger range, or fewer replicas or nodes.",
    }
    BAD_PORT_NAME = "ADIT-M018" {
        summary: "not a port name",
        cause: "A port name has at most 15 of the characters a-z, 0-9 and -, at least one letter, no two dashes in a row, and begins and ends with a letter or a digit (RFC 6335 section 5.1).",
        fix: "Use a short name such as `http`.",
    }
    DUPLICATE_PORT = "ADIT-M019" {
        summary: "a port or its name stands twice",
        cause: "Within one workload or service, a number may stand once for each protocol and a name once.",
        fix: "Remove or rename one of them.",
    }
    UNKNOWN_PORT = "ADIT-M020" {
        summary: "a port name that the workload doesn't have",
        cause: "A probe, or a service's `targetPort`, names a port that isn't under the `ports` of the workload, or is there for another protocol.",
        fix: "Correct the name, use the number, or name the port under the workload's `ports`.",
    }
    SELECTS_NOTHING = "ADIT-M021" {
        summary: "a service whose selector matches no workload",
        cause: "A service matches workloads of its own namespace that have all of its labels with the same values. Workloads that join at run time can match too, so this is a warning.",
        fix: "Compare the selector with the labels of the workload it is meant for.",
    }
    BAD_PROBE = "ADIT-M022" {
        summary: "a readiness probe that makes no sense",
        cause: "A probe has exactly one of `exec`, `httpGet` and `tcpSocket`; a command has a program; a path begins with a slash and has no spaces or control characters.",
        fix: "Correct it as the message says.",
    }
    BAD_COMMAND = "ADIT-M023" {
        summary: "a command that can't be run",
        cause: "It is empty, or a NUL character stands in it.",
        fix: "Name the program: `command: [python3, -m, http.server]`.",
    }
    BAD_ENV = "ADIT-M024" {
        summary: "an environment variable that can't be set",
        cause: "Its name is empty, has a `=` or a NUL character in it, or stands twice; or its value has a NUL character.",
        fix: "Correct the name.",
    }
    BAD_LABEL = "ADIT-M025" {
        summary: "not a label",
        cause: "A label's key is a name of at most 63 characters, with a DNS name and a slash before it if need be; its value has at most 63 characters. Both are of letters, digits, dashes, dots and underscores and begin and end with a letter or a digit; the value may be empty.",
        fix: "Correct the label, such as `app.kubernetes.io/name: web`.",
    }
    EMPTY = "ADIT-M026" {
        summary: "something that must not be empty is",
        cause: "A mesh needs a namespace, a service needs labels to select by and, unless it is headless, ports; a service with several ports needs a name for each.",
        fix: "Fill it in as the message says.",
    }
    POLICY_UNREADABLE = "ADIT-M027" {
        summary: "a policy file can't be read",
        cause: "It doesn't exist, may not be read by this user, isn't UTF-8 text, has more than 4 MiB, or there are more than 4096 of them.",
        fix: "Paths are relative to the mesh file. Name a file, or a folder with *.yaml, *.yml or *.json right in it.",
    }
    BAD_PATH = "ADIT-M028" {
        summary: "a path that can't be used",
        cause: "It is empty or has a NUL character in it.",
        fix: "Write the path of a folder or file, relative to the mesh file.",
    }
    NEEDS_RESTART = "ADIT-M029" {
        summary: "a change that a running mesh can't take",
        cause: "The file was changed while the mesh runs. Workloads, services, policies and namespaces may come, go and change; the mesh's name, its trust domain, its address ranges and the order of its nodes may not, because every certificate and address in use hangs on them. Nodes can be added at the end.",
        fix: "Change it back, or stop the mesh with `adit down` and start it again.",
    }
    TOO_MANY = "ADIT-M030" {
        summary: "too many replicas",
        cause: "A mesh has at most 10,000 replicas of all its workloads together. Each has a network namespace, addresses and a certificate of its own.",
        fix: "Run fewer of them.",
    }
    UNKNOWN_TEST = "ADIT-M031" {
        summary: "a test that is no workload of the mesh",
        cause: "`test` is the NAMESPACE/NAME of one workload of the file. It is misspelt, lacks the namespace, or the workload has replicas, which are called NAME-0, NAME-1 and so on.",
        fix: "Correct the name, or add the workload.",
    }
}

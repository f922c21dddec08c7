use std::cell::RefCell;

use super::super::serve::plugin_socket;
use super::*;

/// A node with a helper that says what it was told to, or without one.
struct Fake {
    reply: Option<PluginReply>,
    asked: RefCell<Vec<PluginRequest>>,
    discarded: RefCell<Vec<String>>,
}

impl Fake {
    fn new(reply: Option<PluginReply>) -> Self {
        Self {
            reply,
            asked: RefCell::default(),
            discarded: RefCell::default(),
        }
    }
}

impl World for Fake {
    fn ask(&self, state: &Path, request: &PluginRequest) -> Result<PluginReply, ClientError> {
        assert_eq!(state, "/run/adit");
        self.asked.borrow_mut().push(request.clone());
        self.reply.clone().ok_or_else(|| ClientError::Connect {
            path: plugin_socket(state),
            source: io::ErrorKind::ConnectionRefused.into(),
        })
    }

    fn discard(&self, _: &Path, uid: &str) -> Result<(), CniError> {
        self.discarded.borrow_mut().push(uid.to_owned());
        Ok(())
    }
}

fn environment(command: &str) -> Environment {
    Environment {
        command: command.into(),
        container: "c0ffee".into(),
        namespace: "/var/run/netns/cni-1".into(),
        interface: "eth0".into(),
        arguments: "IgnoreUnknown=1;K8S_POD_UID=u-1;K8S_POD_NAME=web-0;K8S_POD_NAMESPACE=shop;\
                    K8S_POD_INFRA_CONTAINER_ID=c0ffee"
            .into(),
    }
}

fn configuration() -> Value {
    json!({
        "cniVersion": "1.0.0", "name": "pods", "type": PLUGIN, "state": "/run/adit",
        "exemptNamespaces": ["adit-system"],
        "prevResult": {
            "cniVersion": "1.0.0",
            "interfaces": [{ "name": "veth1" }, { "name": "eth0", "sandbox": "/var/run/netns/cni-1" }],
            "ips": [{ "address": "10.244.0.5/24", "gateway": "10.244.0.1", "interface": 1 },
                    { "address": "fd00:244::5/64" }],
            "routes": [{ "dst": "0.0.0.0/0" }], "dns": {}, "unknownField": [1, 2.5]
        }
    })
}

fn call(
    environment: &Environment,
    configuration: &Value,
    world: &dyn World,
) -> Result<Option<Value>, CniError> {
    run(environment, configuration.to_string().as_bytes(), world)
}

fn refused(code: Code) -> Option<PluginReply> {
    Some(PluginReply::Refused {
        code,
        message: "because".into(),
    })
}

#[test]
fn add_asks_and_hands_the_result_on_unchanged() {
    for reply in [PluginReply::Joined, PluginReply::LeftAlone] {
        let fake = Fake::new(Some(reply));
        let result = call(&environment("ADD"), &configuration(), &fake).unwrap();
        assert_eq!(result.as_ref(), Some(&configuration()["prevResult"]));
        let asked = fake.asked.take();
        let [PluginRequest::Add(add)] = &asked[..] else {
            panic!("{asked:?}");
        };
        assert_eq!(
            (add.container.as_str(), add.interface.as_str()),
            ("c0ffee", "eth0")
        );
        assert_eq!(add.namespace, "/var/run/netns/cni-1");
        assert_eq!((add.pod.uid.as_str(), add.pod.name.as_str()), ("u-1", "web-0"));
        let addresses = add.pod.addresses.iter().map(ToString::to_string);
        assert_eq!(addresses.collect::<Vec<_>>(), ["10.244.0.5", "fd00:244::5"]);
    }
}

#[test]
fn a_pod_waits_while_nobody_can_decide_unless_its_namespace_is_exempt() {
    for reply in [refused(Code::NO_AGENT), refused(Code::AGENT_REFUSED), None] {
        let error = call(&environment("ADD"), &configuration(), &Fake::new(reply)).unwrap_err();
        assert_eq!(error.number, 11, "{error:?}");
    }
    let mut exempt = environment("ADD");
    exempt.arguments = exempt.arguments.replace("=shop", "=adit-system");
    let result = call(&exempt, &configuration(), &Fake::new(None)).unwrap();
    assert_eq!(result.as_ref(), Some(&configuration()["prevResult"]));
    // Only when there is nobody: the helper's own word holds for every namespace.
    let error = call(&exempt, &configuration(), &Fake::new(refused(Code::INTERPOSE))).unwrap_err();
    assert_eq!(error.number, 100);
}

#[test]
fn a_container_that_is_no_pod_passes() {
    let mut environment = environment("ADD");
    environment.arguments = "IgnoreUnknown=1".into();
    let fake = Fake::new(None);
    assert!(call(&environment, &configuration(), &fake).is_ok());
    environment.command = "DEL".into();
    assert_eq!(call(&environment, &configuration(), &fake), Ok(None));
    assert_eq!(fake.asked.take(), []);
    environment.arguments = "K8S_POD_NAME=web-0".into();
    assert_eq!(call(&environment, &configuration(), &fake).unwrap_err().number, 4);
}

#[test]
fn del_succeeds_without_a_namespace_a_result_or_a_helper() {
    let mut environment = environment("DEL");
    environment.namespace.clear();
    let mut configuration = configuration();
    configuration.as_object_mut().unwrap().remove("prevResult");
    let fake = Fake::new(Some(PluginReply::Done));
    assert_eq!(call(&environment, &configuration, &fake), Ok(None));
    let expected = PluginRequest::Delete {
        container: "c0ffee".into(),
        namespace: String::new(),
        uid: "u-1".into(),
    };
    assert_eq!(fake.asked.take(), [expected]);
    assert_eq!(fake.discarded.take(), Vec::<String>::new());

    let fake = Fake::new(None);
    assert_eq!(call(&environment, &configuration, &fake), Ok(None));
    assert_eq!(fake.discarded.take(), ["u-1"]);
}

#[test]
fn gc_tells_which_sandboxes_are_left_and_never_guesses() {
    let mut configuration = configuration();
    let fake = Fake::new(Some(PluginReply::Done));
    let environment = environment("GC");
    assert_eq!(call(&environment, &configuration, &fake).unwrap_err().number, 7);
    configuration["cni.dev/valid-attachments"] = json!([
        { "containerID": "b", "ifname": "eth0" }, { "containerID": "a", "ifname": "eth0" },
        { "containerID": "b", "ifname": "net1" }
    ]);
    assert_eq!(call(&environment, &configuration, &fake), Ok(None));
    let valid = vec!["a".into(), "b".into()];
    assert_eq!(fake.asked.take(), [PluginRequest::Collect { valid }]);
}

#[test]
fn check_is_the_helpers_word_and_status_is_always_well() {
    let gone = Fake::new(refused(Code::POD_NAMESPACE));
    let error = call(&environment("CHECK"), &configuration(), &gone).unwrap_err();
    assert_eq!(error.number, 100);
    let fake = Fake::new(None);
    assert_eq!(call(&environment("STATUS"), &configuration(), &fake), Ok(None));
}

#[test]
fn version_needs_no_configuration() {
    let answer = run(&environment("VERSION"), b"", &Fake::new(None))
        .unwrap()
        .unwrap();
    assert_eq!(answer["cniVersion"], "1.1.0");
    assert!(
        answer["supportedVersions"]
            .as_array()
            .unwrap()
            .contains(&json!("1.0.0"))
    );
}

#[test]
fn what_is_missing_or_wrong_is_named_with_the_number_of_the_specification() {
    let fake = Fake::new(None);
    let without = |field: &str| {
        let mut configuration = configuration();
        configuration.as_object_mut().unwrap().remove(field);
        call(&environment("ADD"), &configuration, &fake).unwrap_err()
    };
    assert_eq!(without("prevResult").number, 7);
    assert_eq!(without("state").number, 7);
    let mut unchained = configuration();
    unchained["prevResult"]["ips"] = json!([{ "address": "ten" }]);
    let error = call(&environment("ADD"), &unchained, &fake).unwrap_err();
    assert_eq!(error.number, 7);
    let shown = error.to_json("0.4.0");
    assert_eq!(shown["cniVersion"], "0.4.0");
    assert!(
        shown["msg"].as_str().unwrap().starts_with("[ADIT-N029] "),
        "{shown}"
    );
    assert!(!shown["details"].as_str().unwrap().is_empty());

    let broken = run(&environment("ADD"), b"{", &fake).unwrap_err();
    assert_eq!(broken.number, 6);
    let mut nowhere = environment("ADD");
    nowhere.namespace.clear();
    assert_eq!(call(&nowhere, &configuration(), &fake).unwrap_err().number, 4);
    assert_eq!(
        call(&environment("PLAY"), &configuration(), &fake)
            .unwrap_err()
            .number,
        4
    );
}

#[test]
fn a_uid_that_would_be_a_path_reaches_neither_the_helper_nor_the_journal() {
    for uid in ["../../etc/shadow", "/etc/shadow", "..", "a b", &"u".repeat(64)] {
        let environment = Environment {
            arguments: format!("K8S_POD_UID={uid};K8S_POD_NAME=web-0;K8S_POD_NAMESPACE=shop"),
            ..environment("DEL")
        };
        let fake = Fake::new(None);
        let text = configuration().to_string();
        let error = run(&environment, text.as_bytes(), &fake).unwrap_err();
        assert_eq!(error.number, 4, "{uid}");
        assert!(
            fake.asked.borrow().is_empty() && fake.discarded.borrow().is_empty(),
            "{uid}"
        );
    }
}

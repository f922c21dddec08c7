//! Two network namespaces joined by a veth pair, made without root: the direct path, and an outside world.

use std::time::Duration;

use crate::process::{Running, wait_until};
use crate::sandbox::User;

/// Two hosts with a cable between them. They vanish when this is dropped.
///
/// Host A has 10.99.0.1 and fd99::1, host B 10.99.0.2 and fd99::2; each is the other's default route.
#[derive(Debug)]
pub struct Lab {
    _keeper: Running,
    /// The first host.
    pub a: Place,
    /// The second.
    pub b: Place,
}

/// The namespaces of one host: where a command is to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pid: u32,
    login: u32,
}

impl Lab {
    /// Makes the hosts as `user`.
    ///
    /// # Panics
    /// If user namespaces or veth devices can't be made; says what the commands said.
    #[track_caller]
    pub fn new(user: &User) -> Self {
        let mut command = user.command("unshare");
        let (uid, gid) = (user.uid().to_string(), user.gid().to_string());
        command.args([
            "--user",
            "--map-root-user",
            "--net",
            "sh",
            "-c",
            SCRIPT,
            "sh",
            &uid,
            &gid,
        ]);
        let mut keeper = Running::spawn(command);
        keeper.wait_for("ready", Duration::from_secs(20));
        let said = keeper.stdout();
        let pid = |index| said.split_whitespace().nth(index)?.parse().ok();
        let (Some(b), Some(login)) = (pid(1), pid(2)) else {
            panic!("expected `ready PID PID`, got {said:?}")
        };
        // Neither setpriv nor unshare forks: the shell has the pid that was started.
        let a = Place {
            pid: keeper.pid(),
            login,
        };
        let lab = Self {
            a,
            b: Place { pid: b, login },
            _keeper: keeper,
        };
        lab.wait_for_the_cable(user);
        lab
    }

    fn wait_for_the_cable(&self, user: &User) {
        let ping = || {
            let mut command = user.root_at("ip", self.a);
            command.args(["-o", "link", "show", "up", "dev", "veth0"]);
            command
                .output()
                .is_ok_and(|shown| String::from_utf8_lossy(&shown.stdout).contains("LOWER_UP"))
        };
        wait_until(
            "the veth pair to come up",
            Duration::from_secs(10),
            || ping().then_some(()),
            String::new,
        );
    }
}

impl Place {
    /// A process there.
    pub fn pid(self) -> u32 {
        self.pid
    }

    /// The arguments of a further nsenter that make root an ordinary user without any capability there. All commands
    /// of one lab get the same user namespace, as all logins on a host have.
    pub(crate) fn login(self) -> Vec<String> {
        let pid = self.login.to_string();
        [
            "nsenter",
            "--target",
            &pid,
            "--user",
            "--preserve-credentials",
            "--",
        ]
        .map(str::to_owned)
        .to_vec()
    }

    /// The arguments of nsenter that lead there, as root of its user namespace.
    pub(crate) fn nsenter(self) -> Vec<String> {
        let pid = self.pid.to_string();
        [
            "--target",
            &pid,
            "--user",
            "--net",
            "--preserve-credentials",
            "--",
        ]
        .map(str::to_owned)
        .to_vec()
    }
}

/// Ends when its standard input does. ping_group_range is what distributions with systemd set for everybody.
const SCRIPT: &str = r#"
set -e
unshare --net sleep infinity &
b=$!
unshare --user --map-user=$1 --map-group=$2 sleep infinity &
login=$!
trap 'kill $b $login' EXIT
for pid in $b $login; do
    until grep -q sleep /proc/$pid/comm; do sleep 0.01; done
done
in_b() { nsenter --target $b --net -- "$@"; }
ip link add veth0 type veth peer name veth1 netns $b
ip addr add 10.99.0.1/24 dev veth0
ip addr add fd99::1/64 dev veth0 nodad
in_b ip addr add 10.99.0.2/24 dev veth1
in_b ip addr add fd99::2/64 dev veth1 nodad
ip link set lo up; ip link set veth0 up
in_b ip link set lo up; in_b ip link set veth1 up
ip route add default via 10.99.0.2; ip -6 route add default via fd99::2
in_b ip route add default via 10.99.0.1; in_b ip -6 route add default via fd99::1
in_b sh -c 'echo 0 0 > /proc/sys/net/ipv4/ping_group_range'
echo 0 0 > /proc/sys/net/ipv4/ping_group_range
echo "ready $b $login"
read -r end || true
"#;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::Finished;

    #[test]
    fn the_hosts_reach_each_other_and_nothing_else() {
        let user = User::ordinary();
        let lab = Lab::new(&user);
        let ping = |address: &str| {
            let mut command = user.command_at("ping", Some(lab.a));
            command.args(["-c", "1", "-W", "5", address]);
            Finished::of(command, Duration::from_secs(20)).code()
        };
        assert_eq!(ping("10.99.0.2"), 0);
        assert_eq!(ping("fd99::2"), 0);
        let id = Finished::of(user.command_at("id", Some(lab.b)), Duration::from_secs(5)).stdout();
        assert!(id.contains(&format!("uid={}", user.uid())), "{id}");
    }
}

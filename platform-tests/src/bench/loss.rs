//! Packets that get lost on the cable between the hosts.

use std::time::Duration;

use crate::lab::{Lab, Place};
use crate::process::Running;
use crate::sandbox::User;

/// From now on, of a hundred packets that reach either host over the cable, `percent` are dropped, at random.
///
/// Packets are counted as the kernel hands them over: a super-packet of 64 KiB is one, on every path.
///
/// # Panics
/// If nft is missing, or the kernel doesn't take the rule.
#[track_caller]
pub(super) fn inject(lab: &Lab, user: &User, percent: f64) {
    for (place, device) in [(lab.a, "veth0"), (lab.b, "veth1")] {
        drop_at(place, user, device, percent);
    }
}

#[track_caller]
fn drop_at(place: Place, user: &User, device: &str, percent: f64) {
    let mut nft = user.root_at(crate::program("nft", "nftables"), place);
    nft.args(["-f", "-"]);
    let mut nft = Running::spawn(nft);
    nft.say(&rules(device, percent));
    let done = nft.finish(Duration::from_secs(20));
    assert_eq!(done.code(), 0, "{done}");
}

fn rules(device: &str, percent: f64) -> String {
    const WHOLE: u32 = 100_000;
    let lost = (percent / 100.0 * f64::from(WHOLE)).round();
    format!(
        "table inet loss {{\n chain arriving {{\n  type filter hook prerouting priority raw\n  \
         iifname {device} meta l4proto tcp numgen random mod {WHOLE} < {lost} counter drop\n }}\n}}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::Finished;

    #[test]
    fn the_rule_has_the_share() {
        assert!(rules("veth0", 1.0).contains("mod 100000 < 1000 "));
        assert!(rules("veth0", 0.05).contains("mod 100000 < 50 "));
    }

    #[test]
    fn what_is_lost_does_not_arrive() {
        let user = User::ordinary();
        let lab = Lab::new(&user);
        let connect = || {
            let mut nc = user.command_at("nc", Some(lab.a));
            nc.args(["-v", "-n", "-w", "1", "-z", "10.99.0.2", "7"]);
            Finished::of(nc, Duration::from_secs(20)).stderr()
        };
        let said = connect();
        assert!(said.contains("refused"), "{said}");
        inject(&lab, &user, 99.99);
        let said = connect();
        assert!(said.contains("timed out"), "{said}");
    }
}

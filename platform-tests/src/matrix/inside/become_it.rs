//! Becoming what a condition says: this process and all that it starts, for good.

use std::error::Error;
use std::fs;
use std::path::{Path as FilePath, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::unistd::{Gid, Uid, chdir, pivot_root, setgroups, setresgid, setresuid};
use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
use rustix::thread::{CapabilitySet, CapabilitySets};

use super::{AGENT, FOLDER, Tools, USER};
use crate::matrix::cell::{Cell, Condition, Path};

type Done = Result<(), Box<dyn Error>>;

/// Becomes what the cell's condition says. Afterwards the tools are where it returns them.
///
/// The process must be root, with one thread and namespaces of its own.
pub(super) fn become_it(cell: Cell, tools: Tools) -> Result<Tools, Box<dyn Error>> {
    let is_laptop = cell.path == Path::Laptop;
    let mut tools = tools;
    match cell.condition {
        Condition::Root => {}
        Condition::User => become_user(USER)?,
        Condition::Container => {
            look_like_a_container()?;
            drop_bounding_set()?;
            become_user(AGENT)?;
            rustix::thread::set_no_new_privs(true)?;
        }
        Condition::ContainerRoot => {
            look_like_a_container()?;
            drop_bounding_set()?;
            drop_capabilities()?;
            rustix::thread::set_no_new_privs(true)?;
        }
        Condition::ReadOnly => {
            read_only()?;
            if is_laptop {
                become_user(USER)?;
                crate::seccomp::deny(&["container"])?;
            }
        }
        Condition::Bare => tools = leave_everything(&tools)?,
        Condition::NoUserNamespaces | Condition::ClosedTun | Condition::NoIpv6 => {}
    }
    let changed_the_machine = matches!(
        cell.condition,
        Condition::NoUserNamespaces | Condition::ClosedTun | Condition::NoIpv6 | Condition::Bare
    );
    // A node's helper is root in any case.
    if changed_the_machine && is_laptop {
        become_user(USER)?;
    }
    Ok(tools)
}

/// Who this cell's own files have to belong to.
pub(super) fn owner(cell: Cell) -> u32 {
    match (cell.condition, cell.path) {
        (Condition::Root | Condition::ContainerRoot, _) => 0,
        (Condition::Container, _) => AGENT,
        (Condition::User, _) | (_, Path::Laptop) => USER,
        _ => 0,
    }
}

fn become_user(id: u32) -> Done {
    let (uid, gid) = (Uid::from_raw(id), Gid::from_raw(id));
    setgroups(&[])?;
    setresgid(gid, gid, gid)?;
    setresuid(uid, uid, uid)?;
    Ok(())
}

fn drop_bounding_set() -> Done {
    for capability in CapabilitySet::all().iter() {
        // Older kernels know fewer.
        let _ = rustix::thread::remove_capability_from_bounding_set(capability);
    }
    Ok(())
}

fn drop_capabilities() -> Done {
    let none = CapabilitySets {
        effective: CapabilitySet::empty(),
        permitted: CapabilitySet::empty(),
        inheritable: CapabilitySet::empty(),
    };
    Ok(rustix::thread::set_capabilities(None, none)?)
}

/// What container runtimes hide and make read-only (the OCI runtime specification's defaults), and the devices that they
/// give.
fn look_like_a_container() -> Done {
    let devices = scratch("dev")?;
    for (name, minor) in [
        ("null", 3),
        ("zero", 5),
        ("full", 7),
        ("random", 8),
        ("urandom", 9),
    ] {
        device(&devices.join(name), 1, minor)?;
    }
    mount(Some(&devices), "/dev", none(), MsFlags::MS_MOVE, none())?;
    for hidden in ["/proc/acpi", "/proc/scsi", "/sys/firmware"] {
        if FilePath::new(hidden).is_dir() {
            mount(Some("tmpfs"), hidden, Some("tmpfs"), MsFlags::MS_RDONLY, none())?;
        }
    }
    for hidden in [
        "/proc/kcore",
        "/proc/keys",
        "/proc/timer_list",
        "/proc/sched_debug",
    ] {
        if FilePath::new(hidden).exists() {
            mount(Some("/dev/null"), hidden, none(), MsFlags::MS_BIND, none())?;
        }
    }
    for fixed in [
        "/proc/bus",
        "/proc/fs",
        "/proc/irq",
        "/proc/sys",
        "/proc/sysrq-trigger",
    ] {
        if FilePath::new(fixed).exists() {
            fix(fixed)?;
        }
    }
    fix("/sys")
}

/// Nothing can be written but in /run and /tmp, which are memory.
fn read_only() -> Done {
    for place in ["/", "/payload"] {
        let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY;
        mount(none(), place, none(), flags, none())?;
    }
    Ok(())
}

/// Goes to a root file system with the two programs and what the kernel shows: /proc, two devices, and /run with the cell's
/// own files.
fn leave_everything(tools: &Tools) -> Result<Tools, Box<dyn Error>> {
    // `ip netns` shares its folder's mounts: what is unmounted of the old root would go from the new one.
    mount(none(), "/", none(), MsFlags::MS_REC | MsFlags::MS_PRIVATE, none())?;
    let root = scratch("root")?;
    for (program, name) in [(&tools.adit, "adit"), (&tools.load, "adit-load")] {
        fs::copy(program, root.join(name))?;
    }
    for folder in ["proc", "dev/net", "run"] {
        fs::create_dir_all(root.join(folder))?;
    }
    device(&root.join("dev/null"), 1, 3)?;
    device(&root.join("dev/net/tun"), 10, 200)?;
    for moved in ["/proc", "/run"] {
        // With what is mounted in it.
        let there = root.join(&moved[1..]);
        mount(
            Some(moved),
            &there,
            none(),
            MsFlags::MS_BIND | MsFlags::MS_REC,
            none(),
        )?;
    }
    chdir(&root)?;
    // The old root goes over the new one, and is taken off it.
    pivot_root(".", ".")?;
    umount2(".", MntFlags::MNT_DETACH)?;
    chdir("/")?;
    Ok(Tools {
        adit: "/adit".into(),
        load: "/adit-load".into(),
    })
}

/// Memory mounted at a place of its own, which is not in /run: that is taken along.
fn scratch(name: &str) -> Result<PathBuf, Box<dyn Error>> {
    let place = FilePath::new("/tmp").join(name);
    fs::create_dir_all(&place)?;
    mount(
        Some("tmpfs"),
        &place,
        Some("tmpfs"),
        MsFlags::empty(),
        Some("mode=0755"),
    )?;
    Ok(place)
}

fn device(path: &FilePath, major: u32, minor: u32) -> Done {
    let mode = Mode::from_raw_mode(0o666);
    mknodat(CWD, path, FileType::CharacterDevice, mode, makedev(major, minor))?;
    Ok(rustix::fs::chmod(path, mode)?)
}

/// Makes what is at a place read-only there.
fn fix(place: &str) -> Done {
    mount(
        Some(place),
        place,
        none(),
        MsFlags::MS_BIND | MsFlags::MS_REC,
        none(),
    )?;
    let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY;
    mount(
        none(),
        place,
        none(),
        flags | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC,
        none(),
    )?;
    Ok(())
}

fn none() -> Option<&'static str> {
    None
}

/// The cell's own folder, with one below it for run directories, which belongs to `owner`; in a /run of the cell's own.
pub(super) fn make_folder(owner: u32) -> Done {
    mount(
        Some("tmpfs"),
        "/run",
        Some("tmpfs"),
        MsFlags::empty(),
        Some("mode=0755"),
    )?;
    fs::create_dir_all(FOLDER)?;
    let run = run_folder();
    fs::create_dir_all(&run)?;
    std::os::unix::fs::chown(&run, Some(owner), Some(owner))?;
    fs::set_permissions(&run, std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
    Ok(())
}

/// `ADIT_RUN_DIR` of the cell.
pub(super) fn run_folder() -> PathBuf {
    FilePath::new(FOLDER).join("run")
}

//! What this executable is when it is not the runner.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use adit_node::enter::{self, Program, Terminal};
use adit_node::{Client, LinkChoice, laptop, probe};
use nix::sys::socket::{setsockopt, sockopt};

/// Plays the role that the first argument names, if it names one.
pub(crate) fn play(arguments: &[String]) -> Option<ExitCode> {
    let (role, rest) = arguments.split_first()?;
    Some(match role.as_str() {
        "as-node" => node(rest),
        "as-enter" => enter(rest),
        "as-probe" => probe_machine(rest),
        "as-session" => session(rest),
        "as-supervisor" => supervise(rest),
        "as-app" => app(rest),
        "as-stats" => stats(rest),
        _ => return None,
    })
}

/// `--name value` anywhere in front of `--`.
fn option<'a>(arguments: &'a [String], name: &str) -> Option<&'a str> {
    let mut options = arguments.iter().take_while(|argument| *argument != "--");
    options.find(|argument| *argument == name)?;
    options.next().map(String::as_str)
}

fn flag(arguments: &[String], name: &str) -> bool {
    arguments
        .iter()
        .take_while(|argument| *argument != "--")
        .any(|argument| argument == name)
}

/// The link that `--link` names, or whichever can be had.
fn link(arguments: &[String]) -> LinkChoice {
    option(arguments, "--link").map_or(LinkChoice::Auto, |text| text.parse().unwrap())
}

fn after_dashes(arguments: &[String]) -> &[String] {
    arguments
        .iter()
        .position(|argument| argument == "--")
        .map_or(&[], |at| &arguments[at + 1..])
}

/// The helper: its lifeline is standard input, its readiness goes to standard output.
fn node(arguments: &[String]) -> ExitCode {
    let socket = PathBuf::from(option(arguments, "--socket").unwrap());
    let lifeline = io::stdin().as_fd().try_clone_to_owned().unwrap();
    let mut options = laptop::Options::new(socket.clone(), lifeline);
    options.ready = Some(io::stdout().as_fd().try_clone_to_owned().unwrap());
    options.remove_on_exit = flag(arguments, "--remove").then(|| socket.parent().unwrap().to_owned());
    options.tun_device = option(arguments, "--tun").unwrap().into();
    options.link = link(arguments);
    options.hide = option(arguments, "--hide").map(Into::into);
    if let Some(pods) = option(arguments, "--pods") {
        options.limits.pods = pods.parse().unwrap();
    }
    if let Some(clients) = option(arguments, "--clients") {
        options.limits.clients = clients.parse().unwrap();
    }
    match laptop::run(options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("node: {error} ({})", error.code());
            ExitCode::FAILURE
        }
    }
}

/// `enter`, as the `adit` executable would call it.
fn enter(arguments: &[String]) -> ExitCode {
    let mut client = Client::connect(Path::new(option(arguments, "--socket").unwrap())).unwrap();
    let namespaces = client.namespaces(option(arguments, "--pod").unwrap()).unwrap();
    drop(client);
    let lifeline = option(arguments, "--lifeline")
        .map(|number| adit_link::inherit_descriptor(number.parse().unwrap()).unwrap());
    let program = Program {
        argv: after_dashes(arguments).iter().map(Into::into).collect(),
        environment: option(arguments, "--only-env").map(|pair| {
            let (key, value) = pair.split_once('=').unwrap();
            vec![(key.into(), value.into())]
        }),
        directory: option(arguments, "--directory").map(Into::into),
    };
    let terminal = if flag(arguments, "--detach") {
        Terminal::Detach
    } else {
        Terminal::Keep
    };
    match enter::run(&namespaces, &program, enter::Options { lifeline, terminal }) {
        Ok(finished) => {
            for warning in &finished.warnings {
                eprintln!("enter: {warning}");
            }
            finished.exit.code().into()
        }
        Err(error) => {
            eprintln!("enter: {error} ({})", error.code());
            error.exit_code().into()
        }
    }
}

fn stats(arguments: &[String]) -> ExitCode {
    let mut client = Client::connect(Path::new(option(arguments, "--socket").unwrap())).unwrap();
    println!("{:?}", client.stats().unwrap());
    ExitCode::SUCCESS
}

fn probe_machine(arguments: &[String]) -> ExitCode {
    let options = probe::Options {
        link: link(arguments),
        tun_device: option(arguments, "--tun").unwrap().into(),
        agent: None,
    };
    match probe::run(&options) {
        Ok(findings) => {
            for finding in &findings {
                println!(
                    "{} {:?} {}: {}",
                    finding.code, finding.status, finding.what, finding.reason
                );
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("{} {error}", error.code());
            ExitCode::FAILURE
        }
    }
}

/// Becomes a session on the terminal `--terminal`, and then the program.
fn session(arguments: &[String]) -> ExitCode {
    rustix::process::setsid().unwrap();
    // The first terminal that a session's leader opens becomes its controlling terminal.
    let terminal = File::options()
        .read(true)
        .write(true)
        .open(option(arguments, "--terminal").unwrap())
        .unwrap();
    rustix::stdio::dup2_stdin(&terminal).unwrap();
    rustix::stdio::dup2_stdout(&terminal).unwrap();
    rustix::stdio::dup2_stderr(&terminal).unwrap();
    drop(terminal);
    let [name, rest @ ..] = after_dashes(arguments) else {
        return ExitCode::FAILURE;
    };
    panic!("{}", Command::new(name).args(rest).exec());
}

/// Holds the only write end of a lifeline, starts the helper and a program with it, and sleeps.
#[expect(clippy::zombie_processes, reason = "it is killed, which is what it is for")]
fn supervise(arguments: &[String]) -> ExitCode {
    let (read, _write) = io::pipe().unwrap();
    let here = std::env::current_exe().unwrap();
    let socket = option(arguments, "--socket").unwrap();
    let tun = option(arguments, "--tun").unwrap();
    let (mut ready, theirs) = io::pipe().unwrap();
    let _node = Command::new(&here)
        .args(["as-node", "--socket", socket, "--tun", tun, "--remove"])
        .stdin(OwnedFd::from(read.try_clone().unwrap()))
        .stdout(OwnedFd::from(theirs))
        .spawn()
        .unwrap();
    ready.read_exact(&mut [0; laptop::READY.len()]).unwrap();
    Client::connect(Path::new(socket))
        .unwrap()
        .create_pod(&crate::world::pod("lifeline", 9))
        .unwrap();
    // The read end may leak into any child: only write ends keep a lifeline alive.
    rustix::io::fcntl_setfd(&read, rustix::io::FdFlags::empty()).unwrap();
    let number = std::os::fd::AsRawFd::as_raw_fd(&read).to_string();
    let _enter = Command::new(&here)
        .args([
            "as-enter",
            "--socket",
            socket,
            "--pod",
            "lifeline",
            "--detach",
            "--lifeline",
            &number,
            "--",
        ])
        .arg(&here)
        .args(["as-app", "sleep"])
        .spawn()
        .unwrap();
    loop {
        std::thread::park();
    }
}

/// The program in the pod.
#[expect(
    clippy::zombie_processes,
    reason = "leaving a process behind is one of its jobs"
)]
fn app(arguments: &[String]) -> ExitCode {
    let arguments = arguments.iter().map(String::as_str).collect::<Vec<_>>();
    match arguments[..] {
        ["exit", code] => return ExitCode::from(code.parse::<u8>().unwrap()),
        ["sleep"] => {
            println!("asleep");
            io::stdout().flush().unwrap();
            std::thread::sleep(Duration::from_secs(600));
        }
        // A background process that outlives the program unless somebody sees to it.
        ["leave-behind"] => {
            let here = std::env::current_exe().unwrap();
            let mut child = Command::new(here)
                .args(["as-app", "sleep"])
                .process_group(0)
                .stdout(std::process::Stdio::piped())
                .spawn()
                .unwrap();
            child.stdout.take().unwrap().read_exact(&mut [0; 7]).unwrap();
            println!("{}", std::fs::read_link("/proc/self/ns/pid").unwrap().display());
        }
        ["send-udp", to] => {
            let bind = if to.starts_with('[') {
                "[::]:0"
            } else {
                "0.0.0.0:0"
            };
            let socket = UdpSocket::bind(bind).unwrap();
            let _ = socket.send_to(b"hello from the pod", to);
        }
        // As datagrams of `len` bytes, each filled with its number, that the kernel is to cut from one piece.
        ["send-udp-segments", to, len, count] => {
            let (len, count) = (len.parse::<u16>().unwrap(), count.parse::<u8>().unwrap());
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            setsockopt(&socket, sockopt::UdpGsoSegment, &i32::from(len)).unwrap();
            let piece = (0..count).flat_map(|number| std::iter::repeat_n(number, usize::from(len)));
            socket.send_to(&piece.collect::<Vec<_>>(), to).unwrap();
        }
        ["connect-tcp", to] => {
            let _ = TcpStream::connect_timeout(&to.parse().unwrap(), Duration::from_millis(200));
        }
        ["write", path, text] => match std::fs::write(path, text) {
            Ok(()) => println!("written"),
            Err(error) => println!("{:?}", error.kind()),
        },
        ["wait-for-term"] => return wait_for_term(),
        _ => panic!("no such app: {arguments:?}"),
    }
    ExitCode::SUCCESS
}

/// Exits with 42 on SIGTERM, with 43 on a second one that came before it looked.
fn wait_for_term() -> ExitCode {
    use nix::sys::signal::{SigSet, Signal};
    let set = SigSet::from_iter([Signal::SIGTERM]);
    set.thread_block().unwrap();
    println!("ready");
    io::stdout().flush().unwrap();
    set.wait().unwrap();
    // Give a duplicate time to arrive; a test that passes by being fast would prove nothing.
    std::thread::sleep(Duration::from_millis(100));
    let pending = std::fs::read_to_string("/proc/self/status").unwrap();
    let again = pending
        .lines()
        .any(|line| line.starts_with("ShdPnd:") && line.ends_with("4000"));
    ExitCode::from(if again { 43 } else { 42 })
}

//! `adit-load`: servers and clients for tests and benchmarks. One JSON object on standard output says what was found.

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use adit_platform_tests::load::{
    self, ActiveSpec, ConnectSpec, EndSpec, Op, RrSpec, ScanSpec, ServeSpec, Server, Stage, StreamSpec,
    Target,
};
use clap::{Args, Parser, Subcommand, ValueEnum};
use serde::Serialize;

/// Loads TCP connections and says what came of it. Bounded in count and in time, whatever it does.
#[derive(Parser)]
struct Cli {
    /// End with status 3 after so many seconds, whatever is under way.
    #[arg(long, global = true, default_value_t = 3600)]
    limit: u64,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make a folder the root, with no other mount besides; print `ready`, and stay until standard input ends.
    Alone {
        /// The folder, which has to be a mount in a namespace that this process may change.
        root: PathBuf,
    },
    /// Serve until the limit; prints a line when it listens.
    Serve {
        /// The first port.
        #[arg(long, default_value_t = 7000)]
        port: u16,
        /// How many ports.
        #[arg(long, default_value_t = 1)]
        ports: u16,
        /// How many connections at once.
        #[arg(long, default_value_t = 20_000)]
        max_connections: usize,
        /// Write a JSON line for each connection that ended.
        #[arg(long)]
        log: Option<PathBuf>,
    },
    /// Stream bytes one way.
    Stream {
        #[command(flatten)]
        target: TargetArgs,
        /// Bytes of each stream.
        #[arg(long, required_unless_present = "seconds", conflicts_with = "seconds")]
        bytes: Option<u64>,
        /// How long to stream.
        #[arg(long)]
        seconds: Option<f64>,
        /// From the server to the client.
        #[arg(long)]
        reverse: bool,
        /// How fast, in Mbit/s.
        #[arg(long, conflicts_with = "bytes", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
        rate: Option<u32>,
        /// Streams at once.
        #[arg(long, default_value_t = 1)]
        parallel: usize,
        /// Don't make and hash a pattern: for benchmarks.
        #[arg(long)]
        unchecked: bool,
    },
    /// Requests and responses on one connection.
    Rr {
        #[command(flatten)]
        target: TargetArgs,
        /// How many.
        #[arg(long, default_value_t = 10_000)]
        count: u64,
        /// Stop after so long, if they aren't done.
        #[arg(long)]
        seconds: Option<f64>,
        /// Stream to the server on another connection meanwhile.
        #[arg(long, requires = "seconds")]
        beside_stream: bool,
        /// Bytes of a request.
        #[arg(long, default_value_t = 64)]
        request: u32,
        /// Bytes of a response.
        #[arg(long, default_value_t = 64)]
        response: u32,
    },
    /// Open connections, print `opened`; at a line on standard input send requests on them, each on one chosen at
    /// random, print `answered`; at another line close them.
    Turns {
        #[command(flatten)]
        target: TargetArgs,
        /// How many connections.
        #[arg(long, value_parser = clap::value_parser!(u64).range(1..=100_000))]
        count: u64,
        /// How many requests.
        #[arg(long, default_value_t = 10_000)]
        requests: u64,
        /// Seconds to wait at most for each line.
        #[arg(long, default_value_t = 60)]
        hold: u64,
    },
    /// Open and close connections.
    Connect {
        #[command(flatten)]
        target: TargetArgs,
        /// How many.
        #[arg(long, required_unless_present = "seconds")]
        count: Option<u64>,
        /// How long at most.
        #[arg(long)]
        seconds: Option<f64>,
        /// Threads.
        #[arg(long, default_value_t = 1)]
        parallel: usize,
        /// How many a second, all threads together; without it as many as there can be.
        #[arg(long)]
        rate: Option<u32>,
    },
    /// Open connections, print a line, leave them idle until a line comes on standard input, use them again.
    Idle {
        #[command(flatten)]
        target: TargetArgs,
        /// How many.
        #[arg(long)]
        count: usize,
        /// Seconds to wait at most.
        #[arg(long, default_value_t = 60)]
        hold: u64,
    },
    /// Connections that all carry data at once and check it.
    Active {
        #[command(flatten)]
        target: TargetArgs,
        /// How many.
        #[arg(long, default_value_t = 1000)]
        count: usize,
        /// Bytes each way on each.
        #[arg(long, default_value_t = 256 << 10)]
        bytes: usize,
    },
    /// Open connections with a sending server and don't read, until a line comes on standard input.
    Stall {
        #[command(flatten)]
        target: TargetArgs,
        /// How many.
        #[arg(long, default_value_t = 8)]
        count: usize,
        /// Seconds to wait at most.
        #[arg(long, default_value_t = 60)]
        hold: u64,
    },
    /// Find out how one connection ends.
    End {
        #[command(flatten)]
        target: TargetArgs,
        /// What the server does.
        #[arg(long, value_enum)]
        server: ServerDoes,
        /// Bytes that the server sends.
        #[arg(long, default_value_t = 0)]
        bytes: u64,
        /// Bytes to send first.
        #[arg(long, default_value_t = 0)]
        send: u64,
        /// Reset when as much as was sent has come back: for an echo server.
        #[arg(long)]
        reset: bool,
    },
    /// Connect to each port of a range and close again.
    Scan {
        /// The address.
        host: std::net::IpAddr,
        /// The first port.
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
        first: u16,
        /// The last port.
        #[arg(long, default_value_t = u16::MAX)]
        last: u16,
        /// Threads.
        #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..=1024))]
        parallel: u64,
        /// Attempts a second, all threads together; as many as come about if unset.
        #[arg(long)]
        rate: Option<u64>,
    },
    /// Print the address that the server sees.
    Who {
        #[command(flatten)]
        target: TargetArgs,
    },
}

#[derive(Clone, Copy, ValueEnum)]
enum ServerDoes {
    Echo,
    Hold,
    Reset,
    Sink,
    Source,
}

#[derive(Args)]
struct TargetArgs {
    /// `HOST:PORT` of the server's first port.
    target: String,
    /// How many ports it has.
    #[arg(long = "target-ports", default_value_t = 1)]
    ports: u16,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    load::raise_descriptor_limit();
    let limit = Duration::from_secs(cli.limit);
    std::thread::spawn(move || {
        std::thread::sleep(limit);
        eprintln!("adit-load: still at it after {} seconds", limit.as_secs());
        std::process::exit(3);
    });
    match run(cli.command, limit) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("adit-load: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command, limit: Duration) -> Result<(), Box<dyn Error>> {
    match command {
        Command::Alone { root } => {
            adit_platform_tests::bare::make_root(&root)?;
            println!("ready");
            load::wait_for_stdin(limit);
            Ok(())
        }
        Command::Serve {
            port,
            ports,
            max_connections,
            log,
        } => {
            let server = Server::start(ServeSpec {
                port,
                ports,
                max_connections,
                log,
            })?;
            println!("listening on {:?}", server.addresses);
            std::thread::sleep(limit);
            Ok(())
        }
        Command::Stream {
            target,
            bytes,
            seconds,
            reverse,
            rate,
            parallel,
            unchecked,
        } => {
            let time = seconds.map(Duration::from_secs_f64);
            let spec = StreamSpec {
                parallel,
                bytes,
                time,
                reverse,
                rate,
                checked: !unchecked,
            };
            print(&load::stream(target.resolve()?, spec)?)
        }
        Command::Rr {
            target,
            count,
            seconds,
            beside_stream,
            request,
            response,
        } => {
            let time = seconds.map(Duration::from_secs_f64);
            let spec = RrSpec {
                count,
                time,
                request,
                response,
            };
            let target = target.resolve()?;
            print(&match time.filter(|_| beside_stream) {
                Some(time) => load::rr_beside_stream(target, spec, time)?,
                None => load::rr(target, spec)?,
            })
        }
        Command::Turns {
            target,
            count,
            requests,
            hold,
        } => {
            let target = target.resolve()?;
            print(&load::turns(target, count, requests, |stage| {
                println!(
                    "{}",
                    match stage {
                        Stage::Answered => "answered",
                        Stage::Opened => "opened",
                    }
                );
                load::wait_for_stdin(Duration::from_secs(hold));
            })?)
        }
        Command::Connect {
            target,
            count,
            seconds,
            parallel,
            rate,
        } => {
            let time = seconds.map(Duration::from_secs_f64);
            print(&load::connect(
                target.resolve()?,
                ConnectSpec {
                    count,
                    time,
                    parallel,
                    rate,
                },
            )?)
        }
        Command::Idle { target, count, hold } => {
            print(&load::idle(target.resolve()?, count, announce_and_wait(hold))?)
        }
        Command::Active { target, count, bytes } => {
            print(&load::active(target.resolve()?, ActiveSpec { count, bytes })?)
        }
        Command::Stall { target, count, hold } => {
            load::stall(target.resolve()?, count, announce_and_wait(hold))?;
            Ok(())
        }
        Command::End {
            target,
            server,
            bytes,
            send,
            reset,
        } => {
            let op = match server {
                ServerDoes::Echo => Op::Echo,
                ServerDoes::Hold => Op::Hold,
                ServerDoes::Reset => Op::Reset { bytes },
                ServerDoes::Sink => Op::Sink { checked: false },
                ServerDoes::Source => Op::Source {
                    bytes,
                    checked: false,
                },
            };
            print(&load::end(target.resolve()?, EndSpec { op, send, reset }))
        }
        Command::Scan {
            host,
            first,
            last,
            parallel,
            rate,
        } => print(&load::scan(ScanSpec {
            host,
            first,
            last,
            parallel,
            rate,
        })),
        Command::Who { target } => print(&load::who(target.resolve()?)?),
    }
}

impl TargetArgs {
    fn resolve(&self) -> std::io::Result<Target> {
        Target::resolve(&self.target, self.ports)
    }
}

fn announce_and_wait(seconds: u64) -> impl FnOnce(u64) {
    move |opened| {
        println!("opened {opened}");
        load::wait_for_stdin(Duration::from_secs(seconds));
    }
}

fn print(found: &impl Serialize) -> Result<(), Box<dyn Error>> {
    println!("{}", serde_json::to_string(found)?);
    Ok(())
}

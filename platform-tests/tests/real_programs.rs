//! Programs that nobody here wrote, unmodified, through the mesh: each as a client and as a server in pods of their
//! own, with mutual TLS between them that they know nothing of. The servers see their client's address.

use std::process::Command;
use std::time::Duration;

use adit_flow::Direction;
use adit_platform_tests::{Finished, Mesh, MeshSpec, Sandbox, Workload, program, wait_until};

const LIMIT: Duration = Duration::from_secs(120);
const CLIENT: &str = "test/client";

/// A mesh with one server, up and ready.
fn serve(sandbox: &Sandbox, server: Workload) -> Mesh<'_> {
    let mesh = sandbox.up(MeshSpec::new("real")
        .workload(server)
        .workload(Workload::idle("filler")));
    mesh.wait_ready();
    mesh
}

/// Checks what every one of them has to have: both records say HBONE with mutual TLS, and they agree on the client.
/// Returns the client's address.
fn check_records(mesh: &Mesh<'_>, server: &str, port: u16) -> String {
    let outbound = mesh.wait_hbone(Direction::Outbound, CLIENT, server, port);
    let inbound = mesh.wait_hbone(Direction::Inbound, CLIENT, server, port);
    assert_eq!(outbound.source.addr.ip(), inbound.source.addr.ip());
    let client = inbound.source.identity.as_deref();
    assert_eq!(
        client,
        Some("spiffe://test.local/ns/test/sa/default"),
        "{inbound}"
    );
    assert_eq!(
        outbound.destination.identity.as_deref(),
        Some("spiffe://test.local/ns/test/sa/server"),
        "{outbound}"
    );
    inbound.source.addr.ip().to_string()
}

/// Runs a preparing command as the user, on the host.
fn prepare(mut command: Command) {
    command.stdin(std::process::Stdio::null());
    Finished::of(command, LIMIT).stdout();
}

/// Waits for a file of the sandbox to contain `text`: servers write their logs when they like.
fn wait_for_log(sandbox: &Sandbox, file: &str, text: &str) {
    let path = sandbox.dir().join(file);
    let read = || std::fs::read_to_string(&path).unwrap_or_default();
    wait_until(
        &format!("{text:?} in {file}"),
        Duration::from_secs(20),
        || read().contains(text).then_some(()),
        read,
    );
}

#[test]
fn nginx_and_curl_over_http_1_and_2() {
    program("curl", "curl");
    let nginx = program("nginx", "nginx-light").to_string_lossy().into_owned();
    let sandbox = Sandbox::new();
    let dir = sandbox.folder("home/nginx");
    let dir = dir.to_string_lossy();
    sandbox.folder("home/nginx/www");
    let page: String = (0..200_000).map(|line| format!("line {line}\n")).collect();
    sandbox.file("home/nginx/www/page.txt", &page);
    let config = format!(
        "daemon off; worker_processes 1; pid {dir}/pid; error_log {dir}/error.log;
         events {{ worker_connections 256; }}
         http {{
           access_log {dir}/access.log; client_body_temp_path {dir}/body; proxy_temp_path {dir}/proxy;
           fastcgi_temp_path {dir}/fastcgi; uwsgi_temp_path {dir}/uwsgi; scgi_temp_path {dir}/scgi;
           server {{ listen 8080; listen [::]:8080; root {dir}/www; }}
           server {{ listen 8081 http2; root {dir}/www; }}
         }}"
    );
    let config = sandbox
        .file("home/nginx/nginx.conf", config)
        .to_string_lossy()
        .into_owned();
    let mesh = serve(
        &sandbox,
        Workload::server("server", 8080, [&nginx, "-c", &config, "-e", "stderr"]),
    );
    let address = mesh.address("test/server");
    for (flag, port, version) in [("--http1.1", 8080, "1.1"), ("--http2-prior-knowledge", 8081, "2")] {
        let url = format!("http://{address}:{port}/page.txt");
        let done = mesh.run_as(
            CLIENT,
            [
                "curl",
                "-sS",
                "--max-time",
                "60",
                flag,
                "-w",
                "%{http_version}",
                &url,
            ],
        );
        let expected = format!("{page}{version}");
        assert!(
            done.stdout() == expected,
            "HTTP/{version}: not the page, but {} bytes",
            done.raw_stdout().len()
        );
        let client = check_records(&mesh, "test/server", port);
        wait_for_log(&sandbox, "home/nginx/access.log", &client);
    }
    let by_name = mesh.run_as(
        CLIENT,
        [
            "curl",
            "-sS",
            "--max-time",
            "60",
            "-o",
            "/dev/null",
            "-w",
            "%{http_code}",
            "http://server.test:8080/page.txt",
        ],
    );
    assert_eq!(by_name.stdout(), "200");
}

#[test]
fn postgresql_and_pgbench() {
    let [initdb, postgres, pgbench, psql] = [
        ("initdb", "postgresql"),
        ("postgres", "postgresql"),
        ("pgbench", "postgresql"),
        ("psql", "postgresql-client"),
    ]
    .map(|(name, package)| program(name, package).to_string_lossy().into_owned());
    let sandbox = Sandbox::new();
    let data = sandbox.dir().join("home/pg").to_string_lossy().into_owned();
    let mut init = sandbox.command(&initdb);
    init.args([
        "-D",
        &data,
        "-U",
        "bench",
        "-A",
        "trust",
        "--no-sync",
        "--no-locale",
        "-E",
        "UTF8",
    ]);
    prepare(init);
    sandbox.file("home/pg/pg_hba.conf", "host all all all trust\n");
    let server = Workload::server(
        "server",
        5432,
        [
            &postgres,
            "-D",
            &data,
            "-c",
            "listen_addresses=*",
            "-c",
            "unix_socket_directories=",
            "-c",
            "fsync=off",
        ],
    );
    let mesh = serve(&sandbox, server);
    let ask = |sql: &str| {
        mesh.run_as(
            CLIENT,
            [
                &psql, "-h", "server", "-U", "bench", "-d", "postgres", "-Atc", sql,
            ],
        )
        .stdout()
    };
    let client = ask("select host(inet_client_addr())").trim().to_owned();
    let fill = mesh.run_as(
        CLIENT,
        [&pgbench, "-h", "server", "-U", "bench", "-i", "-q", "postgres"],
    );
    assert_eq!(fill.code(), 0, "{fill}");
    let bench = mesh.run_as(
        CLIENT,
        [
            &pgbench, "-h", "server", "-U", "bench", "-c", "4", "-T", "5", "postgres",
        ],
    );
    assert!(
        bench.stdout().contains("number of failed transactions: 0"),
        "{bench}"
    );
    assert_eq!(check_records(&mesh, "test/server", 5432), client);
}

#[test]
fn redis_and_its_benchmark() {
    let redis = program("redis-server", "redis-server")
        .to_string_lossy()
        .into_owned();
    let bench = program("redis-benchmark", "redis-tools")
        .to_string_lossy()
        .into_owned();
    let cli = program("redis-cli", "redis-tools").to_string_lossy().into_owned();
    let sandbox = Sandbox::new();
    let argv = [
        &redis,
        "--port",
        "6379",
        "--bind",
        "0.0.0.0",
        "--protected-mode",
        "no",
        "--save",
        "",
        "--appendonly",
        "no",
    ];
    let mesh = serve(&sandbox, Workload::server("server", 6379, argv));
    let info = mesh
        .run_as(CLIENT, [&cli, "-h", "server", "client", "info"])
        .stdout();
    let done = mesh.run_as(
        CLIENT,
        [
            &bench,
            "-h",
            "server",
            "-n",
            "20000",
            "-c",
            "50",
            "-P",
            "4",
            "-t",
            "ping,set,get,lrange_100",
            "-q",
        ],
    );
    assert!(done.stdout().contains("requests per second"), "{done}");
    let client = check_records(&mesh, "test/server", 6379);
    assert!(info.contains(&format!(" addr={client}:")), "{info}");
}

/// The server speaks first: a proxy that waits for the client's first bytes would wait for ever.
#[test]
fn mariadb_speaks_first() {
    let install = program("mariadb-install-db", "mariadb-server");
    let mariadbd = program("mariadbd", "mariadb-server")
        .to_string_lossy()
        .into_owned();
    let client_program = program("mariadb", "mariadb-client")
        .to_string_lossy()
        .into_owned();
    let sandbox = Sandbox::new();
    let data = sandbox.dir().join("home/db").to_string_lossy().into_owned();
    let user = "create user 'reader'@'%';\ngrant select on mysql.* to 'reader'@'%';\n";
    let mut init = sandbox.command(install);
    init.args([
        "--no-defaults",
        "--auth-root-authentication-method=normal",
        "--skip-test-db",
    ]);
    init.arg(format!("--datadir={data}"));
    prepare(init);
    let first = sandbox
        .file("home/first.sql", user)
        .to_string_lossy()
        .into_owned();
    let argv = [
        mariadbd,
        "--no-defaults".to_owned(),
        format!("--datadir={data}"),
        "--bind-address=0.0.0.0".to_owned(),
        "--port=3306".to_owned(),
        format!("--socket={data}/socket"),
        "--innodb-flush-log-at-trx-commit=0".to_owned(),
        "--skip-name-resolve".to_owned(),
        format!("--init-file={first}"),
    ];
    let mesh = serve(&sandbox, Workload::server("server", 3306, argv));
    let address = mesh.address("test/server").to_string();
    let sql = "select user(); select count(*) > 0 from mysql.user;";
    let done = mesh.run_as(
        CLIENT,
        [
            &client_program,
            "--no-defaults",
            "-h",
            &address,
            "-u",
            "reader",
            "-N",
            "-e",
            sql,
        ],
    );
    let client = check_records(&mesh, "test/server", 3306);
    assert_eq!(done.stdout(), format!("reader@{client}\n1\n"));
}

#[test]
fn iperf3_both_ways_and_eight_at_once() {
    let iperf = program("iperf3", "iperf3").to_string_lossy().into_owned();
    let sandbox = Sandbox::new();
    // A probe that opens a connection would be its one client of the moment: so none.
    let mesh = serve(&sandbox, Workload::new("server", [&iperf, "-s"]));
    let address = mesh.address("test/server").to_string();
    for more in [&[][..], &["-R"], &["-P", "8"]] {
        let argv = [&[iperf.as_str(), "-c", &address, "-t", "3", "-J"], more].concat();
        let ask = || {
            Some(mesh.run_as(CLIENT, &argv)).filter(|done| !done.raw_stdout().contains("Connection refused"))
        };
        let done = wait_until("iperf3 to listen", LIMIT, ask, || mesh.logs());
        let report: serde_json::Value = serde_json::from_str(&done.stdout()).unwrap();
        let rate = report["end"]["sum_received"]["bits_per_second"]
            .as_f64()
            .unwrap_or_default();
        eprintln!("iperf3 {more:?}: {:.2} Gbit/s", rate / 1e9);
        assert!(rate > 0.0, "{done}");
    }
    check_records(&mesh, "test/server", 5201);
}

#[test]
fn a_session_with_openssh() {
    let sshd = program("sshd", "openssh-server").to_string_lossy().into_owned();
    let [keygen, ssh] =
        ["ssh-keygen", "ssh"].map(|name| program(name, "openssh-client").to_string_lossy().into_owned());
    let sandbox = Sandbox::new();
    sandbox.folder("home/.ssh");
    let path = |name: &str| {
        sandbox
            .dir()
            .join("home/.ssh")
            .join(name)
            .to_string_lossy()
            .into_owned()
    };
    for key in ["host", "user"] {
        let mut make = sandbox.command(&keygen);
        make.args(["-q", "-t", "ed25519", "-N", "", "-f", &path(key)]);
        prepare(make);
    }
    let public = std::fs::read_to_string(path("user.pub")).unwrap();
    sandbox.file("home/.ssh/authorized", public);
    // `nobody` may not log in, so the server gets a user list in which it may; ssh and sshd insist on one.
    let (uid, home) = (sandbox.user().uid(), sandbox.dir().join("home"));
    let users = format!(
        "root:x:0:0::/:/bin/sh\ntester:x:{uid}:{uid}::{}:/bin/sh\n",
        home.display()
    );
    let users = sandbox.file("home/passwd", users).to_string_lossy().into_owned();
    let config = format!(
        "Port 2222\nHostKey {}\nAuthorizedKeysFile {}\nPidFile none\nUsePAM no\nStrictModes no\n\
         PasswordAuthentication no\nKbdInteractiveAuthentication no\nLogLevel VERBOSE\n",
        path("host"),
        path("authorized")
    );
    let config = sandbox
        .file("home/sshd_config", config)
        .to_string_lossy()
        .into_owned();
    let with_users = |command: &str| {
        format!(
            "exec unshare --user --map-root-user --mount sh -c 'mount --bind {users} /etc/passwd && \
             exec unshare --user --map-user={uid} --map-group={uid} {command}'"
        )
    };
    let server = with_users(&format!("{sshd} -D -e -f {config} -E {}", path("log")));
    let mesh = serve(&sandbox, Workload::server("server", 2222, ["sh", "-c", &server]));
    let options = format!(
        "-F none -i {} -p 2222 -o BatchMode=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null",
        path("user")
    );
    let address = mesh.address("test/server");
    let remote = "echo $SSH_CONNECTION; head -c 5000000 /dev/zero | cat | wc -c; exit 7";
    sandbox.file("home/remote", remote);
    let client = with_users(&format!("{ssh} {options} tester@{address} sh -s < home/remote"));
    let done = mesh.run_as(CLIENT, ["sh", "-c", &client]);
    assert_eq!(
        done.code(),
        7,
        "{done}\n{}",
        std::fs::read_to_string(path("log")).unwrap_or_default()
    );
    let client = check_records(&mesh, "test/server", 2222);
    let said = done.raw_stdout();
    assert!(
        said.starts_with(&client),
        "the server sees another client than {client}: {said}"
    );
    assert!(said.contains("5000000"), "{said}");
}

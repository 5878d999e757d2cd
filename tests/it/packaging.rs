//! The files that put Varve onto a machine, held against the program: flags are flags, paths fit, nothing runs as root.

use std::io::Write;
use std::path::Path;
use std::process::Command;

use varve::config::keys::{KEYS, Kind};
use varve::process::open_files::RESERVED_FILES;

fn read(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// What `serve` says to a configuration, without serving: exit code, and both outputs.
fn asked(arguments: &[&str], environment: &[(String, String)]) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_varve"))
        .args(arguments)
        .arg("--print-config")
        .env_clear()
        .envs(environment.iter().cloned())
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(text).unwrap())
}

fn default_of(name: &str) -> u64 {
    let key = KEYS.iter().find(|key| key.name == name).unwrap();
    let Kind::Number { default, .. } = key.kind else { panic!("{name} is no number") };
    default
}

/// The values of `name=` in a unit.
fn directives<'a>(unit: &'a str, name: &str) -> Vec<&'a str> {
    let values = unit.lines().filter_map(|line| line.split_once('='));
    values.filter(|(found, _)| *found == name).map(|(_, value)| value).collect()
}

/// The arguments of instructions of a Dockerfile; long lines are not used there.
fn instructions<'a>(dockerfile: &'a str, name: &str) -> Vec<&'a str> {
    let lines = dockerfile.lines().filter_map(|line| line.split_once(' '));
    lines.filter(|(found, _)| *found == name).map(|(_, value)| value).collect()
}

fn pairs(text: &str) -> Vec<(String, String)> {
    let pairs = text.split(' ').filter_map(|pair| pair.split_once('='));
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

#[test]
fn the_unit_starts_what_is_there_as_a_user_without_privileges() {
    let unit = read("packaging/varve.service");
    let start = directives(&unit, "ExecStart")[0];
    let arguments: Vec<&str> = start.strip_prefix("/usr/bin/varve ").unwrap().split(' ').collect();
    assert!(arguments.contains(&"--must-exist"));
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/varve.toml");
    let environment: Vec<(String, String)> =
        directives(&unit, "Environment").iter().flat_map(|line| pairs(line)).collect();
    assert_eq!(environment, pairs("VARVE_CONFIG=/etc/varve/varve.toml"));
    let (code, said) =
        asked(&arguments, &[("VARVE_CONFIG".to_owned(), example.to_str().unwrap().to_owned())]);
    assert_eq!(code, Some(0), "{said}");
    let state = format!("/var/lib/{}", directives(&unit, "StateDirectory")[0]);
    assert!(said.contains(&format!("data = \"{state}\"  # --data\n")), "{said}");
    assert!(said.contains("must_exist = true  # --must-exist\n"));

    let users = read("packaging/varve.sysusers.conf");
    assert!(users.lines().any(|line| line.starts_with("u varve ")));
    let files: u64 = directives(&unit, "LimitNOFILE")[0].parse().unwrap();
    assert!(files >= default_of("max_connections") + RESERVED_FILES);
    let stop: u64 = directives(&unit, "TimeoutStopSec")[0].parse().unwrap();
    assert!(stop >= default_of("drain_seconds") + 15);
    // The server sets a rule of its own and tells systemd that it is ready.
    assert!(directives(&unit, "SystemCallFilter")[0].split(' ').any(|call| call == "seccomp"));
    assert!(directives(&unit, "RestrictAddressFamilies")[0].contains("AF_UNIX"));
    for (name, value) in [
        ("Type", "notify"),
        ("User", "varve"),
        ("Restart", "on-failure"),
        ("ExecReload", "/bin/kill -HUP $MAINPID"),
        ("ProtectSystem", "strict"),
        ("NoNewPrivileges", "yes"),
        ("CapabilityBoundingSet", ""),
        ("StateDirectoryMode", "0700"),
        ("UMask", "0077"),
        ("LimitCORE", "0"),
    ] {
        assert_eq!(directives(&unit, name), [value], "{name}");
    }
}

#[test]
fn the_drop_in_hands_over_what_it_loads() {
    let unit = read("packaging/varve.service.d/tls.conf");
    let loaded = directives(&unit, "LoadCredential");
    let names: Vec<&str> = loaded.iter().map(|line| line.split_once(':').unwrap().0).collect();
    let environment: Vec<(String, String)> =
        directives(&unit, "Environment").iter().flat_map(|line| pairs(line)).collect();
    assert_eq!((names.len(), environment.len()), (2, 2));
    for (variable, value) in &environment {
        assert!(names.contains(&value.strip_prefix("%d/").unwrap()), "{variable}");
    }
    let (code, said) = asked(&["serve", "--listen", "0.0.0.0:443"], &environment);
    assert_eq!(code, Some(0), "{said}");
}

/// systemd's own judgement, where systemd is installed.
#[test]
fn systemd_takes_the_unit() {
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        // Not `eprintln!`, which the test harness keeps to itself when a test passes.
        let _ = writeln!(std::io::stderr(), "SKIPPED: systemd-analyze is not installed");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("varve.service");
    // The program must be there for `verify`.
    let unit = read("packaging/varve.service").replace("/usr/bin/varve", env!("CARGO_BIN_EXE_varve"));
    std::fs::write(&path, unit).unwrap();
    let drop_in = dir.path().join("varve.service.d");
    std::fs::create_dir(&drop_in).unwrap();
    std::fs::write(drop_in.join("tls.conf"), read("packaging/varve.service.d/tls.conf")).unwrap();
    let verified = Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&path).output().unwrap();
    let said = String::from_utf8_lossy(&verified.stderr);
    assert!(verified.status.success() && !said.contains("varve.service"), "{said}");

    let judged =
        Command::new("systemd-analyze").args(["security", "--offline=true"]).arg(&path).output().unwrap();
    let said = String::from_utf8_lossy(&judged.stdout);
    let exposure = said.rsplit_once("varve.service: ").and_then(|(_, score)| score.split(' ').next());
    let exposure: f64 = exposure.and_then(|score| score.parse().ok()).unwrap_or_else(|| panic!("{said}"));
    assert!(exposure <= 1.5, "{said}");
}

#[test]
fn the_image_runs_the_server_without_root() {
    let dockerfile = read("Dockerfile");
    let (_, runtime) = dockerfile.rsplit_once("\nFROM ").unwrap();
    assert_eq!(instructions(runtime, "USER"), ["10001:10001"]);
    assert_eq!(instructions(runtime, "STOPSIGNAL"), ["SIGTERM"]);
    let environment = pairs(instructions(runtime, "ENV")[0]);
    let data = &environment.iter().find(|(name, _)| name == "VARVE_DATA").unwrap().1;
    assert_eq!(&instructions(runtime, "VOLUME"), &[data.as_str()]);
    assert!(
        instructions(runtime, "RUN")
            .contains(&format!("install -d -m 0700 -o 10001 -g 10001 {data}").as_str())
    );
    let listen = &environment.iter().find(|(name, _)| name == "VARVE_LISTEN").unwrap().1;
    let port = listen.rsplit_once(':').unwrap().1;
    assert_eq!(instructions(runtime, "EXPOSE"), [port]);

    let binary = instructions(runtime, "COPY")[0].rsplit_once(' ').unwrap().1;
    assert_eq!(instructions(runtime, "ENTRYPOINT"), [format!("[\"{binary}\"]")]);
    assert_eq!(instructions(runtime, "CMD"), ["[\"serve\"]"]);
    // As it stands it refuses: 0.0.0.0 without TLS is an act, not a default.
    let (code, said) = asked(&["serve"], &environment);
    assert!(code == Some(2) && said.contains("not a loopback address"), "{said}");
    let (code, said) = asked(&["serve", "--insecure"], &environment);
    assert_eq!(code, Some(0), "{said}");

    // What is copied from the source is there, and is not kept out of the build.
    let copied = instructions(runtime, "COPY")[1].split(' ').filter_map(|word| word.strip_prefix("/source/"));
    let ignored = read(".dockerignore");
    let ignored: Vec<&str> = ignored.lines().filter(|line| !line.starts_with('#')).collect();
    for path in copied.chain(["Cargo.toml", "Cargo.lock", "src", "tools", "benches", "tests"]) {
        let path = path.trim_start_matches("--from=build ");
        assert!(Path::new(env!("CARGO_MANIFEST_DIR")).join(path).exists(), "{path}");
        assert!(!ignored.contains(&path), "{path}");
    }
    for secret in [".git", "target", "varve-data", "**/*.key", "**/signing-keys"] {
        assert!(ignored.contains(&secret), "{secret}");
    }
}

#[test]
fn compose_publishes_on_loopback_and_takes_every_privilege() {
    let compose = read("compose.yaml");
    let lines: Vec<&str> = compose.lines().map(str::trim).filter(|line| !line.starts_with('#')).collect();
    for wanted in ["read_only: true", "- ALL", "- no-new-privileges:true", "stop_grace_period: 30s", "- /tmp"]
    {
        assert!(lines.contains(&wanted), "{wanted}");
    }
    let published: Vec<&&str> = lines.iter().filter(|line| line.ends_with(":8117\"")).collect();
    assert_eq!(published, [&"- \"127.0.0.1:8117:8117\""]);
    let dockerfile = read("Dockerfile");
    let (_, runtime) = dockerfile.rsplit_once("\nFROM ").unwrap();
    let volume = instructions(runtime, "VOLUME")[0];
    assert!(lines.contains(&format!("- varve-data:{volume}").as_str()));

    let command = lines.iter().find_map(|line| line.strip_prefix("command: ")).unwrap();
    let command: Vec<String> = serde_json::from_str(command).unwrap();
    let command: Vec<&str> = command.iter().map(String::as_str).collect();
    let (code, said) = asked(&command, &pairs(instructions(runtime, "ENV")[0]));
    assert_eq!(code, Some(0), "{said}");
    let files: u64 = lines.iter().find_map(|line| line.strip_prefix("nofile: ")).unwrap().parse().unwrap();
    assert!(files >= default_of("max_connections") + RESERVED_FILES);
}

//! A PostgreSQL cluster of its own for a run: made in a temporary directory, default settings, stopped at the end.
//!
//! Nothing is set but where it listens (a socket in its directory, no address). `fsync`, `synchronous_commit` and
//! `full_page_writes` are at their defaults, so a commit is on disk before it is answered, as in Varve.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;
use varve_loadgen::Fault;

/// Where Debian's package postgresql-15 puts its programs.
pub(crate) const DEBIAN_PROGRAMS: &str = "/usr/lib/postgresql/15/bin";

/// Who runs the server when this tool runs as root, which PostgreSQL refuses; the first that exists.
const USERS: [&str; 2] = ["postgres", "nobody"];

/// The database's own user.
const OWNER: &str = "audit";

/// A running cluster.
pub(crate) struct Cluster {
    programs: PathBuf,
    dir: TempDir,
    user: Option<(u32, u32)>,
}

impl Cluster {
    /// Makes and starts one.
    pub(crate) fn start(programs: &Path, parent: Option<&Path>) -> Result<Cluster, Fault> {
        if !programs.join("initdb").exists() {
            return Err(Fault::unable(format!(
                "NO POSTGRESQL: {} has no initdb, so there is nothing to compare with\n\
                 hint: apt-get install postgresql-15 postgresql-contrib, or say --pg-programs DIR",
                programs.display()
            )));
        }
        let dir = match parent {
            Some(parent) => TempDir::with_prefix_in("varve-pg-", parent),
            None => TempDir::with_prefix("varve-pg-"),
        };
        let dir = dir.map_err(|error| Fault::unable(format!("no directory for the cluster: {error}")))?;
        let mut cluster = Cluster { programs: programs.to_owned(), dir, user: None };
        if is_root() {
            let (uid, gid) = unprivileged_user()?;
            chown(cluster.dir.path(), Some(uid), Some(gid)).map_err(Fault::unable)?;
            cluster.user = Some((uid, gid));
        }
        fs::set_permissions(cluster.dir.path(), fs::Permissions::from_mode(0o700)).map_err(Fault::unable)?;
        cluster.run("initdb", &["--auth=trust", "--locale=C.UTF-8", "--encoding=UTF8", "-U", OWNER])?;
        let options =
            format!("-c listen_addresses='' -c unix_socket_directories='{}'", cluster.dir.path().display());
        let log = cluster.dir.path().join("log").to_string_lossy().into_owned();
        cluster.run("pg_ctl", &["-w", "-o", &options, "-l", &log, "start"])?;
        Ok(cluster)
    }

    /// What a client needs to reach it.
    pub(crate) fn config(&self) -> tokio_postgres::Config {
        let mut config = tokio_postgres::Config::new();
        config.host_path(self.dir.path()).user(OWNER).dbname("postgres").application_name("varve-compare");
        config
    }

    /// Its first process, whose children all others are.
    pub(crate) fn pid(&self) -> Result<u32, Fault> {
        let pid = fs::read_to_string(self.dir.path().join("data/postmaster.pid")).map_err(Fault::unable)?;
        let pid = pid.lines().next().and_then(|line| line.trim().parse().ok());
        pid.ok_or_else(|| Fault::unable("postmaster.pid cannot be read"))
    }

    fn run(&self, program: &str, arguments: &[&str]) -> Result<(), Fault> {
        let mut command = Command::new(self.programs.join(program));
        command.arg("-D").arg(self.dir.path().join("data")).args(arguments).current_dir(self.dir.path());
        // A server that was started keeps its output open, so it must not be a pipe that is waited for.
        let said = fs::File::create(self.dir.path().join(format!("{program}.out"))).map_err(Fault::unable)?;
        let also = said.try_clone().map_err(Fault::unable)?;
        command.stdin(Stdio::null()).stdout(said).stderr(also);
        if let Some((uid, gid)) = self.user {
            command.uid(uid).gid(gid);
        }
        let status = command.status().map_err(|error| Fault::unable(format!("{program}: {error}")))?;
        if status.success() {
            return Ok(());
        }
        let said = fs::read_to_string(self.dir.path().join(format!("{program}.out"))).unwrap_or_default();
        Err(Fault::unable(format!("{program} ended with {status}: {said}")))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Err(Fault::Unable(why)) = self.run("pg_ctl", &["-m", "immediate", "-w", "stop"]) {
            eprintln!("warning: PostgreSQL could not be stopped: {why}");
        }
    }
}

fn is_root() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:")).unwrap_or_default();
    line.split_whitespace().nth(1) == Some("0")
}

fn unprivileged_user() -> Result<(u32, u32), Fault> {
    let users = fs::read_to_string("/etc/passwd").map_err(Fault::unable)?;
    let found = USERS.iter().find_map(|name| ids(&users, name));
    found.ok_or_else(|| {
        Fault::unable("PostgreSQL refuses to run as root, and there is no user postgres or nobody")
    })
}

/// User and group id of `name` in the text of passwd(5).
fn ids(users: &str, name: &str) -> Option<(u32, u32)> {
    users.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        (fields.len() >= 4 && fields[0] == name).then_some(())?;
        Some((fields[2].parse().ok()?, fields[3].parse().ok()?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_found_by_its_whole_name() {
        let users = "root:x:0:0::/:/bin/sh\npostgres2:x:7:8::/:/x\npostgres:x:101:104::/:/x\nbad\n";
        assert_eq!(ids(users, "postgres"), Some((101, 104)));
        assert_eq!(ids(users, "nobody"), None);
    }

    #[test]
    fn a_machine_without_postgresql_is_told_loudly() {
        let dir = tempfile::tempdir().unwrap();
        match Cluster::start(dir.path(), None) {
            Err(Fault::Unable(why)) => assert!(why.starts_with("NO POSTGRESQL") && why.contains("apt-get")),
            _ => panic!("there is no initdb in an empty directory"),
        }
    }
}

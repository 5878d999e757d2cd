//! The tree of commands, and the arguments that several share. Each command's own arguments stand in its file.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use super::cmd::{
    append, approve, checkpoint, compact, erase, hold, import, init, key, operator_key, prove, query,
    retention, rotate_signing_key, serve, tenant, verify,
};

/// Where a server is looked for when neither `--url` nor `VARVE_URL` says.
pub(super) const DEFAULT_URL: &str = "http://127.0.0.1:8117";

/// Append-only audit-log store: hash-chained, signed, verifiable offline.
///
/// Exit codes: 0 = done or intact, 1 = the answer is no, 2 = could not tell.
#[derive(Parser)]
#[command(name = "varve", version, max_term_width = 100, subcommand_required = true)]
#[command(arg_required_else_help = true, disable_help_subcommand = false, infer_subcommands = false)]
pub(super) struct Cli {
    /// Write data as JSON
    #[arg(long, global = true, display_order = 900)]
    pub(super) json: bool,

    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Subcommand)]
pub(super) enum Command {
    /// Make a store; shows the operator key once
    Init(init::InitArgs),
    /// Serve a store over HTTP; makes it on the first run
    Serve(serve::ServeArgs),
    /// Create, list, show and close tenants
    Tenant(tenant::TenantArgs),
    /// Create, list and revoke keys of a tenant
    Key(key::KeyArgs),
    /// Append events from a file or standard input
    Append(append::AppendArgs),
    /// Append the events of other systems' files
    Import(import::ImportArgs),
    /// Search events
    Query(Box<query::QueryArgs>),
    /// Print the proof that an event is in the log (C2SP tlog-proof)
    Prove(prove::ProveArgs),
    /// Print the newest checkpoint of a log (C2SP checkpoint)
    Checkpoint(checkpoint::CheckpointArgs),
    /// Check a data directory (server stopped) or evidence
    Verify(verify::VerifyArgs),
    /// Show or change what a tenant's log keeps how long
    Retention(retention::RetentionArgs),
    /// Place, list and release legal holds: what is held stays
    Hold(Box<hold::HoldArgs>),
    /// Erase what was recorded about a person
    Erase(erase::EraseArgs),
    /// Approve what another key asked for
    Approve(approve::ApproveArgs),
    /// Let bodies go whose time is up (server stopped)
    Compact(compact::CompactArgs),
    /// Replace the signing key of logs (server stopped)
    RotateSigningKey(rotate_signing_key::RotateSigningKeyArgs),
    /// Replace the operator key (server stopped)
    OperatorKey(operator_key::OperatorKeyArgs),
}

/// Which server, and with which key. The key itself is no argument: arguments are seen by every user of the
/// machine.
#[derive(Args, Clone)]
pub(super) struct ServerArgs {
    /// Address of the server
    #[arg(long, env = "VARVE_URL", hide_env_values = true, default_value = DEFAULT_URL, value_name = "URL")]
    pub(super) url: String,

    /// File with the API key; without it the environment variable VARVE_KEY is used
    #[arg(long, value_name = "FILE")]
    pub(super) key_file: Option<PathBuf>,
}

/// Which log.
#[derive(Args, Clone)]
pub(super) struct TenantArg {
    /// Tenant whose log is meant
    #[arg(long, value_name = "T")]
    pub(super) tenant: String,
}

/// A log, and where it is.
#[derive(Args)]
pub(super) struct LogArgs {
    #[command(flatten)]
    pub(super) tenant: TenantArg,

    #[command(flatten)]
    pub(super) server: ServerArgs,
}

/// Which events, as flags with the names of the query parameters.
#[derive(Args, Default)]
pub(super) struct FilterArgs {
    /// Id of who acted
    #[arg(long)]
    actor: Option<String>,
    /// Action; `authn.*` takes all that start so
    #[arg(long)]
    action: Option<String>,
    /// Id of what was acted upon
    #[arg(long)]
    target: Option<String>,
    /// success, failure, denied or unknown
    #[arg(long)]
    outcome: Option<String>,
    /// Address as the producer sent it
    #[arg(long)]
    ip: Option<String>,
    /// Request id as the producer sent it
    #[arg(long, alias = "request_id")]
    request_id: Option<String>,
    /// Id of the event
    #[arg(long)]
    id: Option<String>,
    /// Retention class
    #[arg(long)]
    class: Option<String>,
    /// Recorded at or after this time, RFC 3339
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Recorded before this time, RFC 3339
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// Said to have occurred at or after this time
    #[arg(long, alias = "occurred_since", value_name = "TIME")]
    occurred_since: Option<String>,
    /// Said to have occurred before this time
    #[arg(long, alias = "occurred_until", value_name = "TIME")]
    occurred_until: Option<String>,
}

impl FilterArgs {
    /// Each filter under the name that the server knows.
    pub(super) fn members(&self) -> [(&'static str, Option<&str>); 12] {
        [
            ("actor", self.actor.as_deref()),
            ("action", self.action.as_deref()),
            ("target", self.target.as_deref()),
            ("outcome", self.outcome.as_deref()),
            ("ip", self.ip.as_deref()),
            ("request_id", self.request_id.as_deref()),
            ("id", self.id.as_deref()),
            ("class", self.class.as_deref()),
            ("since", self.since.as_deref()),
            ("until", self.until.as_deref()),
            ("occurred_since", self.occurred_since.as_deref()),
            ("occurred_until", self.occurred_until.as_deref()),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_tree_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn no_argument_takes_a_secret() {
        fn look(command: &clap::Command) {
            for argument in command.get_arguments() {
                let name = argument.get_id().as_str();
                assert!(
                    !matches!(name, "key" | "token" | "secret" | "password"),
                    "{name} of {}",
                    command.get_name()
                );
            }
            command.get_subcommands().for_each(look);
        }
        look(&Cli::command());
    }
}

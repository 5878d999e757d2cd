//! The flags of `serve`: one for each key of the configuration, made from its table, and three that are for one start.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::builder::{OsStringValueParser, PathBufValueParser};
use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};

use crate::config::keys::{KEYS, Key, Kind};
use crate::config::{CONFIG_ENV, Given};

/// What `serve` was called with.
#[derive(Debug)]
pub(in crate::cli) struct ServeArgs {
    /// The configuration file.
    pub(super) config: Option<PathBuf>,
    /// Start although the clock is far behind.
    pub(super) confirm_clock: bool,
    /// Print instead of serving.
    pub(super) print_config: bool,
    /// Keys that were given, as text; the configuration checks them.
    pub(super) given: Vec<Given>,
}

const ABOUT_KEYS: &str = "\
Every flag with a variable is also a key of the configuration file, with _ for -. Flags win over the
environment, the environment over the file, the file over the default. An unknown key or variable is refused.";

impl Args for ServeArgs {
    fn augment_args(command: Command) -> Command {
        let command = command.after_long_help(ABOUT_KEYS).args([
            Arg::new("config")
                .long("config")
                .value_name("FILE")
                .value_parser(PathBufValueParser::new())
                .help("Configuration file, TOML; without it none is read")
                .long_help(format!(
                    "Configuration file, TOML; without it none is read\n\n[env: {CONFIG_ENV}]"
                )),
            Arg::new("print_config")
                .long("print-config")
                .action(ArgAction::SetTrue)
                .help("Print the effective configuration with the origin of each value, and do nothing else"),
            Arg::new("confirm_clock")
                .long("confirm-clock")
                .action(ArgAction::SetTrue)
                .help("Start although the clock is over 24 hours behind the newest entry"),
        ]);
        KEYS.iter().fold(command, |command, key| command.arg(argument(key)))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for ServeArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let given = KEYS.iter().filter_map(|key| {
            matches.get_one::<OsString>(key.name).map(|value| (key.name.to_owned(), value.clone()))
        });
        Ok(ServeArgs {
            config: matches.get_one::<PathBuf>("config").cloned(),
            confirm_clock: matches.get_flag("confirm_clock"),
            print_config: matches.get_flag("print_config"),
            given: given.collect(),
        })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

fn argument(key: &'static Key) -> Arg {
    let argument = Arg::new(key.name)
        .long(key.flag())
        .value_name(key.placeholder())
        .value_parser(OsStringValueParser::new())
        .help_heading(key.group)
        .help(key.about)
        .long_help(long_help(key));
    match key.kind {
        // `--insecure` alone is `true`; `--insecure=false` takes back what a file says.
        Kind::Switch => argument.num_args(0..=1).require_equals(true).default_missing_value("true"),
        _ => argument,
    }
}

fn long_help(key: &Key) -> String {
    let mut text = format!("{}\n\n[env: {}]", key.about, key.env());
    if let Some(default) = key.default_text() {
        text += &format!("\n[default: {default}]");
    }
    match &key.kind {
        Kind::Number { unit, least, most, .. } => text += &format!("\n[{unit}: {least} to {most}]"),
        Kind::Choice(words) => text += &format!("\n[possible values: {}]", words.join(", ")),
        Kind::Path(_) | Kind::Address(_) | Kind::Switch | Kind::Text(_) => {}
    }
    text
}

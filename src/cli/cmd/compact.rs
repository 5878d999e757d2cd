//! `varve compact`: bodies whose time is up leave a store that nobody serves, or a plan of it is shown.

use std::path::PathBuf;

use clap::Args;

use super::super::output::{Exit, Failure, Output, counted};
use crate::event::Micros;
use crate::service::{ConfirmClock, Error, ErrorCode, OpenOptions, Service};

#[derive(Args)]
pub(in crate::cli) struct CompactArgs {
    /// Directory of the store
    #[arg(value_name = "DIR")]
    data: PathBuf,

    /// Only say what would leave
    #[arg(long)]
    dry_run: bool,

    /// What time it is, RFC 3339: bodies leave by the clock, so it is to be right
    #[arg(long, value_name = "TIME", required_unless_present = "dry_run")]
    confirm_clock: Option<String>,
}

pub(in crate::cli) fn run(args: &CompactArgs, output: &Output) -> Result<Exit, Failure> {
    super::must_be_store(&args.data)?;
    if args.dry_run {
        return plan(args, output);
    }
    let said = args.confirm_clock.as_deref().unwrap_or_default();
    let at = Micros::parse(said).map_err(|_| {
        Error::new(ErrorCode::BadRequest, "--confirm-clock takes an RFC 3339 time; nothing was changed")
    })?;
    let mut progress = output.waiting();
    let options = OpenOptions::default();
    let done = Service::compact(&args.data, ConfirmClock::At(at.0), &options, &mut |job| {
        let (bodies, layers) = (job.bodies_left, job.layers_rewritten);
        progress.stands(&format!(
            "{:.0} % looked at; {bodies} bodies left {layers} layers",
            job.progress * 100.0
        ));
    })?;
    drop(progress);
    if output.is_json() {
        output.json(&serde_json::to_value(&done).unwrap_or_default())?;
    } else {
        output.say(&format!(
            "{} left {}; {} were {} on disk and are {}",
            counted(done.bodies_left, "body").replace("bodys", "bodies"),
            counted(done.layers_rewritten, "layer"),
            if done.layers_rewritten == 1 { "it" } else { "they" },
            counted(done.bytes_before, "byte"),
            counted(done.bytes_after, "byte"),
        ));
    }
    match done.detail {
        None => Ok(Exit::Done),
        Some(why) => Err(Error::new(ErrorCode::Internal, why).into()),
    }
}

fn plan(args: &CompactArgs, output: &Output) -> Result<Exit, Failure> {
    let plan = Service::plan(&args.data, &OpenOptions::default())?;
    if output.is_json() {
        output.json(&serde_json::to_value(&plan).unwrap_or_default())?;
        return Ok(Exit::Done);
    }
    for layer in &plan.layers {
        for line in &layer.leaves {
            output.data(&format!(
                "{}  leaves  {:>10}  {}  {}, kept {} months",
                layer.layer, line.bodies, line.tenant, line.class, line.months
            ))?;
        }
        for line in &layer.stays {
            let until = line.until.as_ref().map_or(String::new(), |until| format!(" until {until}"));
            output.data(&format!(
                "{}  stays   {:>10}  {}  {}, {}{until}",
                layer.layer, line.bodies, line.tenant, line.class, line.why
            ))?;
        }
    }
    output.say(&format!(
        "{} would leave {} at {}",
        counted(plan.bodies_leaving, "body").replace("bodys", "bodies"),
        counted(plan.layers.len() as u64, "layer"),
        plan.at
    ));
    Ok(Exit::Done)
}

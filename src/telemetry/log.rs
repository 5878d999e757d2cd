//! What the server's log may hold: what `--log-level` asks for, and of other crates warnings and errors alone.
//!
//! Varve's own lines name their fields one by one and hold no event, key or person; a test reads them at level
//! `trace`. What its dependencies write below a warning is not ours to choose: at `trace` sled logs what it
//! stores, byte by byte. No directive lets these through.

use tracing::level_filters::LevelFilter;
use tracing::{Metadata, Subscriber};
use tracing_subscriber::filter::{EnvFilter, FilterFn, ParseError, filter_fn};
use tracing_subscriber::layer::{Layered, SubscriberExt as _};
use tracing_subscriber::registry::LookupSpan;

/// The most that a foreign target may say.
pub const FOREIGN_LEVEL: LevelFilter = LevelFilter::WARN;

/// `subscriber` under both filters. `directives` is `--log-level`: `info`, or `varve=debug,warn`.
///
/// # Errors
/// When `directives` cannot be read.
pub fn filtered<S>(subscriber: S, directives: &str) -> Result<Filtered<S>, ParseError>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let asked = EnvFilter::try_new(directives)?;
    Ok(subscriber.with(asked).with(filter_fn(may_be_said as fn(&Metadata<'_>) -> bool)))
}

/// A subscriber under both filters.
pub type Filtered<S> = Layered<FilterFn<fn(&Metadata<'_>) -> bool>, Layered<EnvFilter, S>>;

/// Whether a line may be written at all, whatever was asked for.
fn may_be_said(metadata: &Metadata<'_>) -> bool {
    is_own(metadata.target()) || *metadata.level() <= FOREIGN_LEVEL
}

/// Whether a target is one of Varve's modules.
fn is_own(target: &str) -> bool {
    target == "varve" || target.starts_with("varve::")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::sync::Arc;

    use parking_lot::Mutex;

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    /// What of three levels from us and from elsewhere is written.
    fn written(directives: &str) -> String {
        let kept = Kept::default();
        let out = kept.clone();
        let layer = tracing_subscriber::fmt::layer().json().with_writer(move || out.clone());
        let subscriber = filtered(tracing_subscriber::registry(), directives).unwrap().with(layer);
        tracing::subscriber::with_default(subscriber, || {
            tracing::trace!(target: "varve::http", "own-trace");
            tracing::info!(target: "varve", "own-info");
            tracing::trace!(target: "sled::tree", "foreign-trace");
            tracing::info!(target: "hyper::proto", "foreign-info");
            tracing::warn!(target: "axum::rejection", "foreign-warn");
            tracing::trace!(target: "varvelike", "not-ours");
        });
        let text = kept.0.lock().clone();
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn foreign_lines_are_warnings_at_least_whatever_is_asked_for() {
        for directives in [
            "trace",
            "varve=trace,trace",
            "sled=trace,hyper=trace,axum::rejection=trace,varve=trace,varvelike=trace",
        ] {
            let text = written(directives);
            for shown in ["own-trace", "own-info", "foreign-warn"] {
                assert!(text.contains(shown), "{directives}: {shown} in {text}");
            }
            for hidden in ["foreign-trace", "foreign-info", "not-ours"] {
                assert!(!text.contains(hidden), "{directives}: {hidden} in {text}");
            }
        }
    }

    #[test]
    fn what_is_asked_for_still_holds() {
        let text = written("info");
        assert!(text.contains("own-info") && !text.contains("own-trace"), "{text}");
        assert!(!written("error").contains("foreign-warn"));
        assert!(filtered(tracing_subscriber::registry(), "varve=loud").is_err());
    }
}

//! What the process owes the operating system before it may store anything: the lock on the data
//! directory, the rule that makes sled's flush real, the watchdog over syncs, the free-space mark, the limit of open
//! files, and what the init system is told.
//!
//! Knows nothing of journal, layers or events; any room with I/O may import it.

pub mod flush_rule;
pub mod lock;
pub mod notify;
pub mod open_files;
pub mod space;
pub mod watchdog;

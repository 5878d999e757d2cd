//! What is kept on disk to be read, beside the journal that makes it true.

pub mod idtable;

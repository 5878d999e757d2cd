//! What is kept on disk to be read, beside the journal that makes it true.
//!
//! A key-value store is never what makes an acknowledgement true; the journal is. Reading order: what a
//! record is (`record`, `page`), where pages live (`layer`, `layers`, `manifest`), what is known of each log
//! (`log`, `state`), how they are read (`read`), how they get there (`apply`, `frame_op`, `recovery`), how they
//! leave (`rewrite`), how a store begins (`fresh`).

pub mod apply;
pub mod backend;
pub mod bounded;
pub mod frame_op;
pub mod fresh;
pub mod idtable;
pub mod keyfile;
pub mod layer;
pub mod layer_id;
pub mod layers;
pub mod log;
pub mod manifest;
pub mod matcher;
pub mod memory;
pub mod page;
pub mod poison;
pub mod read;
pub mod recent;
pub mod record;
pub mod recovery;
pub mod rewrite;
pub mod seal;
pub mod sled;
pub mod state;
pub mod terms;
pub mod wire;

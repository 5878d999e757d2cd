//! Who may do what: API keys and their scopes.

mod key;
mod scope;

pub use key::{Token, TokenError};
pub use scope::{Scope, Scopes};

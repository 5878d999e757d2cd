//! The page at `/docs`: reads `/openapi.json` and lays it out. It loads nothing from elsewhere.

/// HTML, whole.
pub(crate) const PAGE: &str = include_str!("page.html");

//! What a service submits, from raw bytes to canonical, sealed form. Pure.

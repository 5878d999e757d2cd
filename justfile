# Commands of daily work. `just` lists them; each is also plain cargo, so `just` itself is a convenience.

default:
    @just --list

# all that CI runs, in its order
ci:
    .ci/run

# format everything
fmt:
    cargo fmt --all

# lints as errors, of the workspace and of the core alone
lint:
    cargo clippy --workspace --all-targets -- -D warnings
    cargo clippy -p varve --no-default-features --lib -- -D warnings
    cargo clippy -p varve --no-default-features --features client --lib -- -D warnings

# the command of the README
test:
    cargo test --workspace

# one test by a part of its name
one NAME:
    cargo test --workspace {{NAME}} -- --nocapture

# the rules of the house alone
tidy:
    cargo test --test tidy

# write tests/vectors anew; look at the difference before committing it
vectors:
    cargo run -p varve-vectors

# documentation of the crate, warnings as errors
doc:
    RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --workspace

# bans, licences, sources, advisories (needs cargo-deny)
deny:
    cargo deny check

# serve a store in ./varve-data
serve:
    cargo run --release -- serve

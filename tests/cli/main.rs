//! Transcripts of the command line: what a user types, and what they see.
//!
//! None needs a server: port 9 of this machine (discard) is where no Varve listens.

#[test]
fn transcripts() {
    trycmd::TestCases::new()
        .env("NO_COLOR", "1")
        .env("VARVE_URL", "http://127.0.0.1:9")
        .env("VARVE_KEY", "")
        .case("tests/cli/*.md");
}

//! Transcripts of the command line: what a user types, and what they see.

#[test]
fn transcripts() {
    trycmd::TestCases::new()
        .env("NO_COLOR", "1")
        .env("VARVE_URL", "http://127.0.0.1:9")
        .case("tests/cli/*.md");
}

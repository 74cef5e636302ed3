//! What the integration tests share.
#![allow(dead_code, unreachable_pub, clippy::print_stderr)]

use std::path::PathBuf;

/// The folder of real files that tests compare with: `GOLDCREST_ASSETS`, or `../shared/assets` beside
/// the repository. Says so and gives `None` where there is none, so that the caller can return.
pub fn assets() -> Option<PathBuf> {
    let folder = std::env::var_os("GOLDCREST_ASSETS").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared/assets"),
        PathBuf::from,
    );
    if folder.is_dir() {
        return Some(folder);
    }
    eprintln!("SKIPPED: no test assets at {} (set GOLDCREST_ASSETS)", folder.display());
    None
}

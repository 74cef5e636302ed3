//! Which tiers the other tests of this crate ran on: they loop over those that the processor has,
//! and what it lacks they cannot test.

use std::io::Write;

use goldcrest_kernels::{Isa, Kernels};

/// One line for each tier, `RUN: name` or `NOT RUN: name`, whether or not output is captured.
///
/// Tiers named in `GOLDCREST_REQUIRE_ISA`, separated by commas, must be there.
#[test]
fn which_tiers_run_here() -> std::io::Result<()> {
    // The harness may have begun a line.
    let mut lines = String::from("\n");
    for &isa in Isa::ALL {
        let found = Kernels::for_isa(isa).is_some() && Kernels::deterministic(isa).is_some();
        assert_eq!(found, isa.is_supported(), "{isa}");
        lines += &format!("{}: {isa}\n", if found { "RUN" } else { "NOT RUN" });
    }
    // Not by `eprint!`, which the test harness hides when a test passes.
    let mut shown = std::io::stderr().lock();
    shown.write_all(lines.as_bytes())?;

    let required = std::env::var("GOLDCREST_REQUIRE_ISA").unwrap_or_default();
    for name in required.split(',').filter(|name| !name.is_empty()) {
        let isa: Isa = name.parse().unwrap_or_else(|e| panic!("GOLDCREST_REQUIRE_ISA: {e}"));
        assert!(isa.is_supported(), "{isa} is required, and this processor does not run it");
    }
    Ok(())
}

#[test]
fn the_best_tier_is_the_last_supported() {
    assert_eq!(Some(Isa::best()), Isa::supported().last());
    assert_eq!(Kernels::best().isa(), Isa::best());
    assert_eq!(Isa::supported().next(), Some(Isa::Portable));
}

//! Rings: what a window sees of one has the bits that it has in a plain cache of all positions, on
//! every instruction set, however often the ring has gone round.

#[path = "common/case.rs"]
mod case;
mod common;

use std::ops::Range;

use case::{Case, TYPES, attend, causal, fewer_cases, load, regions};
use common::{bits, on_every_tier, portable, refused};
use goldcrest_kernels::{Attend, CHUNK, Isa, Kernels, KvLayout, KvType, Span};
use proptest::prelude::*;

/// Attention over a ring in which `positions` have been stored, beside the same over a plain cache
/// of all. What is in the ring and no query sees is NaN.
fn check(
    layout: KvLayout,
    group: usize,
    positions: Range<usize>,
    spans: &[Span],
    softcap: Option<f32>,
) {
    let plain = KvLayout::new(layout.ty(), layout.head_dim(), positions.end);
    let mut plain = Case::within(plain, group, positions.clone(), spans.to_vec());
    let mut ring = Case::within(layout, group, positions.clone(), spans.to_vec());
    (plain.softcap, ring.softcap) = (softcap, softcap);

    let seen = ring.seen();
    for p in seen.start..seen.end {
        let row = |case: &Case| bits(&load(portable(), case.layout, &case.k, &case.v, p));
        assert_eq!(row(&ring), row(&plain), "position {p}");
    }
    let nan = vec![f32::NAN; layout.head_dim()];
    let in_no_span = |p: &usize| !spans.iter().any(|span| (span.start..span.end).contains(p));
    let kept = positions.start.max(positions.end.saturating_sub(layout.positions()));
    for p in (kept..positions.end).filter(in_no_span) {
        portable().kv_store(layout, &mut ring.k, &mut ring.v, p, &nan, &nan);
    }

    assert_eq!(bits(&ring.check()), bits(&plain.check()), "{layout:?} {spans:?}");
    for isa in Isa::supported() {
        let kernels = Kernels::for_isa(isa).unwrap();
        let (got, want) = (ring.run(kernels), plain.run(kernels));
        assert_eq!(bits(&got), bits(&want), "{isa} {layout:?} {spans:?}");
    }
}

#[test]
fn sizes_of_windows_and_laps() {
    for ty in TYPES {
        for (head_dim, group, room, positions, queries, window) in [
            (16, 1, 512, 100, 3, 40),   // not yet full
            (32, 2, 256, 256, 1, 256),  // just full
            (32, 2, 256, 264, 1, 256),  // ends in the panel that it begins in
            (64, 3, 512, 1000, 9, 504), // as many rows as there is room for
            (2, 5, 256, 845, 17, 3),
            (34, 1, 768, 2000, 5, 600),
            (80, 4, 1024, 1030, 2, 1023),
        ] {
            let spans = causal(positions, queries, window);
            check(KvLayout::ring(ty, head_dim, room), group, 0..positions, &spans, None);
        }
        let spans = [Span { start: 300, end: 420 }, Span::default(), Span { start: 500, end: 555 }];
        check(KvLayout::ring(ty, 48, 256), 7, 0..555, &spans, Some(2.5));
    }
}

/// Little work, for interpreters.
#[test]
fn a_window_over_the_seam() {
    for ty in TYPES {
        let ring = KvLayout::ring(ty, 6, 256);
        check(ring, 2, 248..261, &causal(261, 3, 9), None);
    }
}

proptest! {
    #![proptest_config(fewer_cases())]
    #[test]
    fn any_window_has_the_bits_of_a_plain_cache(
        ty in 0usize..3,
        half in 1usize..=40,
        group in 1usize..=5,
        chunks in 1usize..=3,
        positions in 1usize..1500,
        (queries, window) in (1usize..=6, 1usize..1000),
    ) {
        let room = chunks * CHUNK;
        let queries = queries.min(positions);
        let spans = causal(positions, queries, window.min(room - queries + 1));
        check(KvLayout::ring(TYPES[ty], 2 * half, room), group, 0..positions, &spans, None);
    }
}

/// Any tier writes what the others do, over what lay there a lap before and nowhere else.
#[test]
fn positions_are_stored_over_those_of_the_lap_before() {
    for ty in TYPES {
        let layout = KvLayout::ring(ty, 34, 512);
        let row = |p: usize| (0..34).map(|d| ((p * 34 + d) as f32 * 0.7).sin()).collect::<Vec<_>>();
        let got = on_every_tier("kv_store", |kernels| {
            let (mut k, mut v) = regions(layout, 0);
            for p in 200..1100 {
                kernels.kv_store(layout, &mut k, &mut v, p, &row(p), &row(p + 1));
            }
            (588..1100).flat_map(|p| load(kernels, layout, &k, &v, p)).collect()
        });
        let plain = KvLayout::new(ty, 34, 1100);
        let (mut k, mut v) = regions(plain, 0);
        for p in 588..1100 {
            portable().kv_store(plain, &mut k, &mut v, p, &row(p), &row(p + 1));
        }
        let want = (588..1100).flat_map(|p| load(portable(), plain, &k, &v, p));
        assert_eq!(bits(&got), bits(&want.collect::<Vec<_>>()), "{ty:?}");
    }
}

/// Spans a number of laps later see the same, to the last position that there is.
#[test]
fn laps_are_not_counted() {
    let ring = KvLayout::ring(KvType::F16, 16, 256);
    let case = Case::within(ring, 2, 0..700, causal(700, 3, 250));
    let last = usize::MAX - CHUNK;
    for lap in [1 << 20, (last - 700) / 256 * 256] {
        let later = |span: &Span| Span { start: span.start + lap, end: span.end + lap };
        let spans: Vec<_> = case.spans.iter().map(later).collect();
        let got = on_every_tier("attend", |kernels| {
            attend(kernels, &Attend { spans: &spans, ..case.args() })
        });
        assert_eq!(bits(&got), bits(&case.run(portable())), "{lap} positions later");
    }
}

#[test]
fn what_a_ring_cannot_hold_is_refused() {
    let attended = |positions, spans: &[Span]| {
        let ring = KvLayout::ring(KvType::F32, 16, positions);
        Case::within(ring, 1, 0..300, spans.to_vec()).run(portable())
    };
    let span = |start, end| Span { start, end };
    refused("a ring has positions", || attended(0, &[]));
    refused("a ring has whole chunks", || attended(100, &[]));
    attended(256, &[span(44, 300), span(usize::MAX, 7)]);
    refused("does not fit a ring of 256", || attended(256, &[span(43, 300)]));
    // Together they see what one lap and the next have at the same place.
    refused("does not fit a ring of 256", || attended(256, &[span(20, 30), span(290, 300)]));
    refused("does not fit a ring", || attended(256, &[span(usize::MAX - 9, usize::MAX)]));
}

//! A training step of SmallNet from outside: where its memory comes from, and what its profile names.
//!
//! The pools belong to the process and to an element type, so each test here has a type of its own.

use std::collections::BTreeSet;

use gatefold_autograd::profile::{Event, profile};
use gatefold_layers::{ConvKind, Cx, Init};
use gatefold_models::{Network, SmallNet};
use gatefold_tensor::Real;
use gatefold_tensor::pool::Pooled;
use gatefold_tensor::random::randn;

const KINDS: [&str; 3] = ["static", "maconv", "mdconv"];
const BATCH: usize = 16;

fn net<T: Real>(kind: &str) -> impl Network<T> {
    SmallNet::new(&ConvKind::named(kind).unwrap(), 3, 10, 1.0, &Init::new(1)).unwrap()
}

/// Forward, loss, backward and statistics; the gradients are dropped.
fn step<T: Real>(net: &mut impl Network<T>, seed: u64) {
    let cx = Cx::train();
    let images = cx.input(randn([BATCH, 3, 32, 32], seed), false);
    let labels: Vec<usize> = (0..BATCH).map(|i| i % 10).collect();
    let loss = net.forward(&cx, &images).unwrap().cross_entropy(&labels, 0.0).unwrap();
    cx.backward(&loss).unwrap();
    cx.into_statistics().apply(net).unwrap();
}

#[test]
fn the_third_step_asks_the_system_for_nothing() {
    let pool = f32::pool();
    for kind in KINDS {
        let (mut net, before) = (net::<f32>(kind), pool.allocated());
        step(&mut net, 0);
        step(&mut net, 1);
        let warm = pool.allocated();
        (2..8).for_each(|seed| step(&mut net, seed));
        assert_eq!(pool.allocated(), warm, "{kind}");
        assert!(kind != KINDS[0] || warm > before, "{kind}: maps of a batch come from the pool");
    }
}

#[test]
fn the_profile_names_the_ops_of_a_step() {
    let of = |kind: &str| -> Vec<Event> { profile(|| step(&mut net::<f64>(kind), 0)).1 };
    let names = |events: &[Event], backward: bool| -> BTreeSet<&str> {
        events.iter().filter(|event| event.backward == backward).map(|event| event.op).collect()
    };
    let always = ["conv2d", "pending_norm", "global_avg_pool", "linear", "cross_entropy"];
    for (kind, besides) in [
        ("static", &[][..]),
        ("maconv", &["sample_moments", "folded_site"]),
        // The last site, of many channels and few positions, is cheaper expanded.
        ("mdconv", &["sample_moments", "folded_site", "gate", "sum_maps", "narrow", "relu", "sigmoid"]),
    ] {
        let events = of(kind);
        let expected: BTreeSet<&str> = always.iter().chain(besides).copied().collect();
        assert_eq!(names(&events, false), expected, "{kind}");
        assert_eq!(names(&events, true), expected, "{kind}, backward");
        let stem = events.iter().find(|event| event.op == "conv2d").unwrap();
        assert_eq!((&stem.shape[..], stem.bytes), (&[BATCH, 16, 32, 32][..], 8 * BATCH * 16 * 32 * 32), "{kind}");
        let [forward, backward] = [false, true].map(|way| events.iter().filter(|e| e.backward == way).count());
        assert_eq!(forward, backward, "{kind}: every op has a gradient to pass on");
    }
    assert!(profile(|| ()).1.is_empty());
}

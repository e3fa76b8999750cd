//! A training step of SmallNet from outside: what its profile names.

use std::collections::BTreeSet;

use gatefold_autograd::profile::{Event, profile};
use gatefold_layers::{ConvKind, Cx, Init};
use gatefold_models::{Network, SmallNet};
use gatefold_tensor::Real;
use gatefold_tensor::random::randn;

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

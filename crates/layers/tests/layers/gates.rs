//! The coefficients that an attention network gives.

use gatefold_layers::{Attention, Cx, Gate, Init, Module};
use gatefold_tensor::Tensor;
use gatefold_tensor::random::randn;

use crate::support::randomise;

const M: usize = 5;

fn coefficients(gate: Gate, temperature: f64, fresh: bool) -> Tensor<f64> {
    let mut attention = Attention::new(6, 3, M, gate, temperature, &Init::new(1));
    if !fresh {
        randomise(&mut attention, 2);
    }
    let cx = Cx::eval();
    attention.forward(&cx, &cx.input(randn([4, 6, 3, 5], 3), false)).unwrap().value().clone()
}

#[test]
fn softmax_coefficients_add_up_to_one() {
    for temperature in [0.1, 1.0, 30.0] {
        let a = coefficients(Gate::Softmax, temperature, false);
        assert_eq!(a.shape()[..], [4, M]);
        for sample in a.as_slice().chunks(M) {
            assert!((sample.iter().sum::<f64>() - 1.0).abs() < 1e-14, "{sample:?}");
            assert!(sample.iter().all(|a| (0.0..=1.0).contains(a)));
        }
    }
}

#[test]
fn a_high_temperature_gives_every_kernel_its_share() {
    let spread = |t| coefficients(Gate::Softmax, t, false).map(|a| a - 1.0 / M as f64).max_abs();
    assert!(spread(1.0) > 1e-3, "the samples must differ at all");
    assert!(spread(1e9) < 1e-8);
}

#[test]
fn a_low_temperature_picks_one_kernel() {
    let a = coefficients(Gate::Softmax, 1e-4, false);
    for sample in a.as_slice().chunks(M) {
        assert!(sample.iter().any(|a| *a > 1.0 - 1e-9), "{sample:?}");
    }
}

#[test]
fn fresh_gates_are_nearly_equal() {
    assert!(coefficients(Gate::Sigmoid, 1.0, true).map(|a| a - 0.5).max_abs() < 0.05);
    assert!(coefficients(Gate::Softmax, 1.0, true).map(|a| a - 1.0 / M as f64).max_abs() < 0.05);
}

#[test]
fn samples_have_coefficients_of_their_own() {
    let a = coefficients(Gate::Sigmoid, 1.0, false);
    assert!(a.as_slice().iter().all(|a| (0.0..1.0).contains(a)));
    assert_ne!(a.as_slice()[..M], a.as_slice()[M..2 * M]);
}

#[test]
fn the_hidden_width_is_rounded_down_but_never_zero() {
    let widths = [(16, 0.25), (7, 0.5), (3, 0.25), (8, 2.0)].map(|(c, r)| Attention::<f64>::hidden_width(c, r));
    assert_eq!(widths, [4, 3, 1, 16]);
}

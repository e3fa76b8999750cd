//! Running statistics: recorded in the forward pass, applied after the step, as PyTorch does.

use gatefold_layers::{Activation, BatchNorm2d, Cx, Form, Gate, Mode, Module, Site, Walk, walk_fields};
use gatefold_tensor::random::randn;
use gatefold_tensor::{Real, Tensor};

use crate::support::{assert_close, mdconv, places, randomise, site};

/// Mean and unbiased variance of each channel, by definition.
fn moments(x: &Tensor<f64>) -> [Tensor<f64>; 2] {
    let [n, c, h, w] = x.dims("moments", "x").unwrap();
    let x = x.view();
    let count = (n * h * w) as f64;
    let channel = |c: usize| {
        let x = &x;
        (0..n).flat_map(move |n| (0..h).flat_map(move |i| (0..w).map(move |j| x[[n, c, i, j]])))
    };
    let mean = |c: usize| channel(c).sum::<f64>() / count;
    let var = |c: usize| channel(c).map(|v| (v - mean(c)).powi(2)).sum::<f64>() / (count - 1.0);
    [Tensor::from_fn([c], |i| mean(i[0])), Tensor::from_fn([c], |i| var(i[0]))]
}

fn moved(running: &Tensor<f64>, batch: &Tensor<f64>) -> Tensor<f64> {
    let mut moved = running.clone();
    moved.zip_apply(batch, |r, b| *r = 0.9 * *r + 0.1 * b).unwrap();
    moved
}

#[test]
fn running_statistics_move_by_a_tenth_with_the_unbiased_variance() {
    let mut bn = BatchNorm2d::<f64>::new(3);
    randomise(&mut bn, 1);
    let before = bn.clone();
    let x = randn([2, 3, 3, 5], 2).map(|v| 3.0 * v + 2.0);
    let cx = Cx::train();
    bn.forward(&cx, &cx.input(x.clone(), false)).unwrap();
    assert_eq!(bn.running_mean.value.to_vec(), before.running_mean.value.to_vec(), "nothing changes before the step");
    cx.into_statistics().apply(&mut bn).unwrap();
    let [mean, var] = moments(&x);
    assert_close("mean", &bn.running_mean.value, &moved(&before.running_mean.value, &mean), 1e-14);
    assert_close("variance", &bn.running_var.value, &moved(&before.running_var.value, &var), 1e-14);
}

/// One batch norm at two places of a network, and another one.
struct Twice<T: Real> {
    shared: BatchNorm2d<T>,
    other: BatchNorm2d<T>,
}

walk_fields!(impl<T> Twice<T> { shared, other });

#[test]
fn a_batch_norm_that_runs_twice_takes_both_batches_in_order() {
    let mut net = Twice { shared: BatchNorm2d::<f64>::new(2), other: BatchNorm2d::new(2) };
    let before = net.state();
    let (x, z) = (randn([2, 2, 3, 3], 4), randn([3, 2, 2, 3], 5).map(|v| v - 4.0));
    let cx = Cx::train();
    let first = net.shared.forward(&cx, &cx.input(x.clone(), false)).unwrap();
    let second = net.shared.forward(&cx, &cx.input(z.clone(), false)).unwrap();
    let loss = first.sum(&[0, 1, 2, 3], false).unwrap().add(&second.sum(&[0, 1, 2, 3], false).unwrap()).unwrap();
    let gradients = cx.backward(&loss).unwrap();
    // Both uses add to one gradient: ∂/∂β Σy is the number of positions of both.
    assert_eq!(gradients.get(&net.shared.bias).unwrap().to_vec(), [36.0; 2]);
    assert!(gradients.get(&net.other.bias).is_none());
    cx.into_statistics().apply(&mut net).unwrap();
    let after = net.state();
    for (i, which) in ["running_mean", "running_var"].into_iter().enumerate() {
        let key = format!("shared.{which}");
        let both = moved(&moved(&before[&key], &moments(&x)[i]), &moments(&z)[i]);
        assert_close(&key, &after[&key], &both, 1e-14);
        let key = format!("other.{which}");
        assert_eq!(after[&key].to_vec(), before[&key].to_vec());
    }
}

#[test]
fn eval_mode_records_nothing_and_is_deterministic_a_sample() {
    let (spec, [h, w]) = places()[2];
    let mut site = site(&mdconv(Form::Expanded, 3, true, Gate::Softmax, 2.0), spec, 1);
    let before = site.state();
    let x = randn([3, spec.cin, h, w], 2);
    let cx = Cx::new(Mode::Eval, true);
    let y = site.forward(&cx, &cx.input(x.clone(), true), Activation::Relu).unwrap();
    cx.into_statistics().apply(&mut site).unwrap();
    for (key, value) in site.state() {
        assert_eq!(value.to_vec(), before[&key].to_vec(), "{key}");
    }
    // A sample's output does not depend on its batch.
    let second = Tensor::from_fn([1, spec.cin, h, w], |i| x.view()[[1, i[1], i[2], i[3]]]);
    let cx = Cx::eval();
    let alone = site.forward(&cx, &cx.input(second, false), Activation::Relu).unwrap();
    let [_, c, oh, ow] = y.value().dims("test", "y").unwrap();
    let expected = Tensor::from_fn([1, c, oh, ow], |i| y.value().view()[[1, i[1], i[2], i[3]]]);
    assert_close("sample 1", alone.value(), &expected, 1e-13);
}

#[test]
fn one_value_a_channel_has_no_variance() {
    let bn = BatchNorm2d::<f64>::new(3);
    let cx = Cx::train();
    assert!(bn.forward(&cx, &cx.input(randn([1, 3, 1, 1], 1), false)).is_err());
}

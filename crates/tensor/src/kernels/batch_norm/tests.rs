use super::*;
use crate::kernels::testing::{assert_close, assert_gradient, assert_same_bits, message};
use crate::random::randn;
use crate::reference::batch_norm as reference;

const EPS: f64 = 1e-5;
const ALL: [bool; 3] = [true; 3];

/// One channel, batch 1, odd sizes, H ≠ W, channels that do and do not divide a wide row, several blocks a piece.
const SHAPES: &[[usize; 4]] =
    &[[2, 3, 5, 4], [1, 1, 3, 2], [3, 1, 1, 1], [2, 70, 3, 1], [4, 7, 9, 5], [2, 64, 4, 4], [5, 3, 70, 61]];

struct Case<T: Real> {
    x: Tensor<T>,
    weight: Tensor<T>,
    bias: Tensor<T>,
    mean: Tensor<T>,
    var: Tensor<T>,
    dy: Tensor<T>,
}

fn case<T: Real>(shape: &[usize]) -> Case<T> {
    let c = shape[1];
    Case {
        x: randn::<T>(shape, 1).map(|v| v * T::of(1.5) + T::of(0.7)),
        weight: randn([c], 2),
        bias: randn([c], 3),
        mean: randn([c], 4),
        var: randn::<T>([c], 5).map(|v| v * v + T::of(0.1)),
        dy: randn(shape, 6),
    }
}

fn forward_and_backward_are_the_definition<T: Real>(tolerance: f64) {
    for shape in SHAPES {
        let Case { x, weight, bias, mean, var, dy } = case::<T>(shape);
        let close =
            |what: &str, a: &Tensor<T>, b: &Tensor<T>| assert_close(&format!("{what} {shape:?}"), a, b, tolerance);

        let (y, stats) = batch_norm_train(&x, &weight, &bias, EPS).unwrap();
        let (own_mean, own_var) = reference::statistics(&x);
        close("mean", &stats.mean, &own_mean);
        close("var", &stats.var, &own_var);
        assert_eq!(stats.count, shape[0] * shape[2] * shape[3]);
        close("train y", &y, &reference::batch_norm(&x, &own_mean, &own_var, &weight, &bias, EPS));
        let grads = batch_norm_train_backward(&x, &weight, &stats, EPS, &dy, ALL).unwrap();
        let (dweight, dbias) = reference::parameter_gradients(&x, &own_mean, &own_var, EPS, &dy);
        close("train dweight", &grads.dweight.unwrap(), &dweight);
        close("train dbias", &grads.dbias.unwrap(), &dbias);
        close("train dx", &grads.dx.unwrap(), &reference::train_dx(&x, &weight, EPS, &dy));

        let y = batch_norm_eval(&x, &mean, &var, &weight, &bias, EPS).unwrap();
        close("eval y", &y, &reference::batch_norm(&x, &mean, &var, &weight, &bias, EPS));
        let grads = batch_norm_eval_backward(&x, &mean, &var, &weight, EPS, &dy, ALL).unwrap();
        let (dweight, dbias) = reference::parameter_gradients(&x, &mean, &var, EPS, &dy);
        close("eval dweight", &grads.dweight.unwrap(), &dweight);
        close("eval dbias", &grads.dbias.unwrap(), &dbias);
        close("eval dx", &grads.dx.unwrap(), &reference::eval_dx(&var, &weight, EPS, &dy));
    }
}

#[test]
fn forward_and_backward_are_the_definition_in_f64() {
    forward_and_backward_are_the_definition::<f64>(1e-11);
}

#[test]
fn forward_and_backward_are_the_definition_in_f32() {
    forward_and_backward_are_the_definition::<f32>(1e-4);
}

#[test]
fn gradients_are_central_differences() {
    for shape in [&[4, 3][..], &[3, 2, 5], &[2, 3, 4, 3], &[3, 1, 1, 1]] {
        let Case { x, weight, bias, mean, var, dy } = case::<f64>(shape);
        let train = |x: &_, weight: &_, bias: &_| batch_norm_train(x, weight, bias, EPS).unwrap().0;
        let (_, stats) = batch_norm_train(&x, &weight, &bias, EPS).unwrap();
        let grads = batch_norm_train_backward(&x, &weight, &stats, EPS, &dy, ALL).unwrap();
        assert_gradient("train dx", &x, &grads.dx.unwrap(), &dy, |x| train(x, &weight, &bias));
        assert_gradient("train dweight", &weight, &grads.dweight.unwrap(), &dy, |weight| train(&x, weight, &bias));
        assert_gradient("train dbias", &bias, &grads.dbias.unwrap(), &dy, |bias| train(&x, &weight, bias));

        let eval = |x: &_, weight: &_, bias: &_| batch_norm_eval(x, &mean, &var, weight, bias, EPS).unwrap();
        let grads = batch_norm_eval_backward(&x, &mean, &var, &weight, EPS, &dy, ALL).unwrap();
        assert_gradient("eval dx", &x, &grads.dx.unwrap(), &dy, |x| eval(x, &weight, &bias));
        assert_gradient("eval dweight", &weight, &grads.dweight.unwrap(), &dy, |weight| eval(&x, weight, &bias));
        assert_gradient("eval dbias", &bias, &grads.dbias.unwrap(), &dy, |bias| eval(&x, &weight, bias));
    }
}

#[test]
fn ranks_2_and_3_are_rank_4_with_ones() {
    let Case { x, weight, bias, dy, .. } = case::<f64>(&[3, 4, 5]);
    for (shape, wide) in [([3, 4, 5].as_slice(), [3, 4, 5, 1]), (&[15, 4], [15, 4, 1, 1])] {
        let (x, dy) = (x.reshape(shape).unwrap(), dy.reshape(shape).unwrap());
        let (x4, dy4) = (x.reshape(wide).unwrap(), dy.reshape(wide).unwrap());
        let (y, stats) = batch_norm_train(&x, &weight, &bias, EPS).unwrap();
        let (y4, stats4) = batch_norm_train(&x4, &weight, &bias, EPS).unwrap();
        assert_eq!(y.to_vec(), y4.to_vec());
        assert_eq!(stats.var, stats4.var);
        let dx = batch_norm_train_backward(&x, &weight, &stats, EPS, &dy, ALL).unwrap().dx.unwrap();
        let dx4 = batch_norm_train_backward(&x4, &weight, &stats4, EPS, &dy4, ALL).unwrap().dx.unwrap();
        assert_eq!((dx.shape(), dx.to_vec()), (x.shape(), dx4.to_vec()));
    }
}

/// With E[x²] − E[x]² in f32 nothing of this variance would be left. The input is rounded to f32 first, so only the
/// kernel's own rounding counts.
#[test]
fn the_variance_survives_a_mean_of_a_thousand_deviations() {
    for shape in [[8, 5, 17, 16], [2, 64, 4, 4], [2, 1, 300, 200]] {
        let x = randn::<f64>(shape, 1).map(|v| 0.01 * v + 10.0).cast::<f32>();
        let (mean, var) = reference::statistics(&x.cast::<f64>());
        let ones = Tensor::ones([shape[1]]);
        let (y, stats) = batch_norm_train(&x, &ones, &Tensor::zeros([shape[1]]), 0.0).unwrap();
        for c in 0..shape[1] {
            let relative = (stats.var.as_slice()[c].f64() / var.as_slice()[c] - 1.0).abs();
            assert!(relative < 1e-5, "variance of channel {c} is off by {relative:e}");
        }
        let expected = reference::normalised(&x.cast::<f64>(), &mean, &var, 0.0);
        assert_close("y", &y.cast::<f64>(), &expected, 1e-4); // the mean itself is rounded to f32
    }
}

/// The same where the mean drifts from block to block and the first value of all is far from everything.
#[test]
fn the_variance_survives_a_drift_and_an_outlier() {
    let shape = [4, 3, 64, 64];
    let mut x = randn::<f64>(shape, 1);
    x.as_mut_slice().iter_mut().enumerate().for_each(|(i, v)| *v = 0.01 * *v + (i / 6144) as f64);
    x.as_mut_slice()[0] = 1e4;
    let x = x.cast::<f32>();
    let (_, var) = reference::statistics(&x.cast::<f64>());
    let (_, stats) = batch_norm_train(&x, &Tensor::ones([3]), &Tensor::zeros([3]), EPS).unwrap();
    for c in 0..3 {
        let relative = (stats.var.as_slice()[c].f64() / var.as_slice()[c] - 1.0).abs();
        assert!(relative < 1e-5, "variance of channel {c} is off by {relative:e}");
    }
}

#[test]
fn a_constant_channel_has_no_variance_and_a_nan_stays_one() {
    let x = Tensor::full([4, 2, 30, 30], 0.1f32);
    let (y, stats) = batch_norm_train(&x, &Tensor::ones([2]), &Tensor::full([2], 3.0), EPS).unwrap();
    assert!(stats.var.as_slice().iter().all(|&v| (0.0..1e-12).contains(&v)));
    assert!(y.as_slice().iter().all(|&v| (v - 3.0).abs() < 1e-3));
    let mut x = randn::<f32>([2, 2, 3, 3], 1);
    x.as_mut_slice()[0] = f32::NAN; // channel 0
    let (y, stats) = batch_norm_train(&x, &Tensor::ones([2]), &Tensor::zeros([2]), EPS).unwrap();
    assert!(stats.var.as_slice()[0].is_nan() && stats.var.as_slice()[1].is_finite());
    assert!(y.as_slice()[2].is_nan() && y.as_slice()[3].is_finite());
}

#[test]
fn the_unbiased_variance_is_divided_by_one_less() {
    let x = Tensor::from_vec([4, 1], vec![1.0f64, 2.0, 3.0, 6.0]).unwrap();
    let (_, stats) = batch_norm_train(&x, &Tensor::ones([1]), &Tensor::zeros([1]), EPS).unwrap();
    assert_eq!((stats.mean.as_slice()[0], stats.var.as_slice()[0]), (3.0, 3.5));
    assert!((stats.unbiased_var().as_slice()[0] - 14.0 / 3.0).abs() < 1e-14);
}

#[test]
fn only_what_is_wanted_is_given() {
    let Case { x, weight, mean, var, dy, .. } = case::<f64>(&[2, 3, 4, 5]);
    let all = batch_norm_eval_backward(&x, &mean, &var, &weight, EPS, &dy, ALL).unwrap();
    for want in [[true, false, false], [false, true, false], [false, false, true], [false; 3]] {
        let some = batch_norm_eval_backward(&x, &mean, &var, &weight, EPS, &dy, want).unwrap();
        let given = [some.dx.is_some(), some.dweight.is_some(), some.dbias.is_some()];
        assert_eq!(given, want);
        for (some, all) in [(&some.dx, &all.dx), (&some.dweight, &all.dweight), (&some.dbias, &all.dbias)] {
            assert!(some.is_none() || some == all);
        }
    }
}

#[test]
fn the_bits_do_not_depend_on_the_threads() {
    for shape in [[8, 16, 40, 33], [3, 5, 64, 64]] {
        let Case { x, weight, bias, dy, .. } = case::<f32>(&shape);
        assert_same_bits("batch norm", || {
            let (y, stats) = batch_norm_train(&x, &weight, &bias, EPS).unwrap();
            let grads = batch_norm_train_backward(&x, &weight, &stats, EPS, &dy, ALL).unwrap();
            vec![y, stats.mean, stats.var, grads.dx.unwrap(), grads.dweight.unwrap(), grads.dbias.unwrap()]
        });
    }
}

#[test]
fn wrong_arguments_are_errors_with_numbers() {
    let Case { x, weight, bias, dy, .. } = case::<f32>(&[2, 3, 4, 5]);
    let (_, stats) = batch_norm_train(&x, &weight, &bias, EPS).unwrap();
    let four = Tensor::zeros([4]);
    let error = message(batch_norm_train(&x, &four, &bias, EPS));
    assert_eq!(error, "batch_norm_train: `weight` has shape [4], expected [3], one value a channel of x");
    assert!(message(batch_norm_eval(&x, &bias, &four, &weight, &bias, EPS)).contains("`var`"));
    assert!(message(batch_norm_train(&Tensor::zeros([7]), &weight, &bias, EPS)).contains("[N, C, H, W]"));
    assert!(message(batch_norm_train(&Tensor::zeros([2, 0]), &four, &four, EPS)).contains("C ≥ 1"));
    assert!(message(batch_norm_train(&Tensor::zeros([1, 3]), &weight, &bias, EPS)).contains("1 values a channel"));
    assert!(message(batch_norm_train(&Tensor::zeros([0, 3]), &weight, &bias, EPS)).contains("0 values a channel"));
    assert!(message(batch_norm_train(&x, &weight, &bias, f64::NAN)).contains("eps is NaN"));
    let wrong = batch_norm_train_backward(&x, &weight, &stats, EPS, &weight, ALL);
    assert_eq!(message(wrong), "batch_norm_train_backward: `dy` has shape [3], expected [2, 3, 4, 5]");
    let other = Tensor::zeros([1, 3, 4, 5]);
    assert!(message(batch_norm_train_backward(&other, &weight, &stats, EPS, &dy, ALL)).contains("40 values a channel"));
}

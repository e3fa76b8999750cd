use super::*;
use crate::kernels::pending::{MaskedGrad, Norm, PendingGrad, Rectifier};
use crate::kernels::testing::{assert_close, assert_gradient, assert_same_bits, message};
use crate::random::randn;

/// Parts of a vector of channels, whole ones, one; one position, fewer and more than there are tasks.
const SHAPES: [[usize; 4]; 7] =
    [[2, 16, 3, 5], [3, 5, 4, 2], [2, 1, 3, 3], [4, 20, 1, 1], [1, 33, 2, 7], [1, 3, 37, 41], [19, 24, 17, 9]];

/// A plain map, one whose mean is far from 0, and one behind a batch norm and a rectifier.
fn maps<T: Real>(shape: [usize; 4]) -> Vec<Pending<T>> {
    let z = |seed| randn::<T>(shape, seed);
    let vector = |seed| randn::<T>([shape[1]], seed);
    let norm = Norm { mean: vector(1), scale: vector(2), shift: vector(3) };
    vec![
        Pending::plain(z(10)),
        Pending::plain(z(11).map(|v| T::of(1000.0) + v)),
        Pending::normed(z(12), norm, Rectifier::Relu).unwrap(),
    ]
}

/// Mean and covariance in two passes in f64.
fn moments(map: &Pending<f64>, per_sample: bool) -> Tensor<f64> {
    let x = map.make();
    let [n, c, h, w] = x.shape()[..] else { panic!("a map has rank 4") };
    let (x, (samples, positions)) = (x.as_slice(), grouped(n, h * w, per_sample));
    let mut rows = Vec::new();
    for x in x.chunks_exact(positions * c) {
        let mean_of = |f: &dyn Fn(&[f64]) -> f64| x.chunks_exact(c).map(f).sum::<f64>() / positions as f64;
        let mean: Vec<f64> = (0..c).map(|i| mean_of(&|x| x[i])).collect();
        rows.extend(&mean);
        for i in 0..c {
            rows.extend((0..c).map(|j| mean_of(&|x| (x[i] - mean[i]) * (x[j] - mean[j]))));
        }
    }
    Tensor::from_memory([samples, c + c * c], rows).unwrap()
}

#[test]
fn moments_are_their_definition() {
    for shape in SHAPES {
        for per_sample in [false, true] {
            for (map, single) in maps::<f64>(shape).iter().zip(maps::<f32>(shape)) {
                let what = format!("{shape:?}, per sample {per_sample}, {:?}", map.rectifier);
                let expected = moments(map, per_sample);
                let (means, covariances) = parts(&expected, shape[1]);
                for (got, limits) in [
                    (sample_moments(map, per_sample).unwrap(), [1e-13, 1e-13]),
                    (sample_moments(&single, per_sample).unwrap().cast(), [1e-6, 1e-4]), // 1000 + v is rounded to 6e-5
                ] {
                    let got = parts(&got, shape[1]);
                    assert_close(&format!("{what}, means"), &got.0, &means, limits[0]);
                    assert_close(&format!("{what}, covariances"), &got.1, &covariances, limits[1]);
                }
            }
        }
    }
}

/// Means and covariances apart, so that large means are no scale for covariances.
fn parts(moments: &Tensor<f64>, c: usize) -> (Tensor<f64>, Tensor<f64>) {
    let rows = moments.as_slice().chunks_exact(c + c * c);
    let (mean, covariance): (Vec<_>, Vec<_>) = rows.clone().map(|row| row.split_at(c)).unzip();
    let tensor = |rows: Vec<&[f64]>| Tensor::from_memory([rows.concat().len()], rows.concat()).unwrap();
    (tensor(mean), tensor(covariance))
}

#[test]
fn a_constant_channel_has_no_variance() {
    let x = Tensor::from_fn([3, 5, 7, 6], |i| if i[1] == 2 { 0.1_f32 } else { (i[0] + i[2] * i[3]) as f32 });
    for per_sample in [false, true] {
        let moments = sample_moments(&Pending::plain(x.clone()), per_sample).unwrap();
        for row in moments.as_slice().chunks_exact(5 + 25) {
            assert_eq!((row[2], row[5 + 2 * 5 + 2]), (0.1, 0.0));
            assert!((0..5).all(|j| row[5 + 2 * 5 + j].abs() <= 1e-5), "{row:?}");
        }
    }
}

#[test]
fn gradients_of_moments_are_central_differences() {
    for shape in [[2, 3, 2, 3], [3, 17, 1, 2], [2, 1, 5, 1]] {
        for per_sample in [false, true] {
            let x = randn::<f64>(shape, 1);
            let map = Pending::plain(x.clone());
            let of_map = sample_moments(&map, per_sample).unwrap();
            let grad = randn::<f64>(*of_map.shape(), 2);
            let dx = sample_moments_backward(&map, &of_map, &grad, None).unwrap().dy;
            assert_gradient(&format!("{shape:?}, {per_sample}"), &x, &dx, &grad, |x| {
                sample_moments(&Pending::plain(x.clone()), per_sample).unwrap()
            });
        }
    }
}

#[test]
fn the_gradient_of_a_pending_map_is_masked_and_summed_up() {
    for shape in SHAPES {
        let map = &maps::<f64>(shape)[2];
        let made = Pending::plain(map.make());
        let moments = sample_moments(map, true).unwrap();
        let grad = randn::<f64>(*moments.shape(), 3);
        let got = sample_moments_backward(map, &moments, &grad, None).unwrap();
        let da = sample_moments_backward(&made, &moments, &grad, None).unwrap().dy;
        let expected = MaskedGrad::of(map, da).unwrap();
        assert_close(&format!("{shape:?}"), &got.dy, &expected.dy, 1e-13);
        for (got, expected) in got.sums.iter().zip(&expected.sums) {
            let [got, expected] = [got, expected].map(|v| Tensor::from_memory([v.len()], v.clone()).unwrap());
            assert_close(&format!("{shape:?}, sums"), &got, &expected, 1e-12);
        }
    }
}

/// W, γ and β of a convolution and its batch norm.
type Values<T> = [Tensor<T>; 3];

fn values<T: Real>(rows: usize, columns: usize, seed: u64) -> Values<T> {
    [randn([rows, columns, 1, 1], seed), randn([rows], seed + 1), randn([rows], seed + 2)]
}

fn layer<T: Real>([weight, gamma, beta]: &Values<T>) -> Layer<'_, T> {
    Layer { weight, gamma, beta, eps: 1e-5 }
}

#[test]
fn the_bits_do_not_depend_on_the_number_of_threads() {
    let (n, c, o, m) = (19, 24, 40, 20);
    for gated in [false, true] {
        assert_same_bits(&format!("gated {gated}"), || {
            let map = &maps::<f32>([n, c, 17, 9])[2];
            let (bypass, first, second) = (values(o, c, 20), values(m, c, 30), values(o, m, 40));
            let site = Site { bypass: Some(layer(&bypass)), first: layer(&first), second: layer(&second) };
            let a = gated.then(|| randn::<f32>([n, m], 50).map(f32::abs));
            let moments = sample_moments(map, gated).unwrap();
            let folded = folded_forward(map, &moments, &site, a.as_ref(), Rectifier::Relu).unwrap();
            let dy = PendingGrad::plain(randn(*folded.y.shape(), 60));
            let grads = folded_backward(map, &moments, &site, &folded, dy).unwrap();
            let dx = sample_moments_backward(map, &moments, &grads.moments, Some(&grads.map)).unwrap().dy;
            let of_layers = grads.layers.into_iter().flatten().flat_map(|g| [g.weight, g.gamma, g.beta]);
            [moments, folded.y, grads.moments, grads.a, dx].into_iter().chain(of_layers).collect()
        });
    }
}

#[test]
fn moments_of_another_map_are_refused() {
    let (bypass, first, second) = (values::<f64>(4, 3, 0), values(5, 3, 3), values(4, 5, 6));
    let site = Site { bypass: Some(layer(&bypass)), first: layer(&first), second: layer(&second) };
    let map = Pending::plain(randn::<f64>([2, 3, 2, 2], 1));
    let folded = |moments: &Tensor<f64>, a: Option<&Tensor<f64>>, site: &Site<'_, f64>| {
        message(folded_forward(&map, moments, site, a, Rectifier::Identity).map(|_| ()))
    };
    let (of_batch, of_samples) = (sample_moments(&map, false).unwrap(), sample_moments(&map, true).unwrap());
    let gates = Tensor::ones([2, 5]);
    for (said, word) in [
        (folded(&of_samples, None, &site), "moments"),
        (folded(&of_batch, Some(&gates), &site), "moments"),
        (folded(&of_samples, Some(&Tensor::ones([2, 4])), &site), "`a`"),
        (folded(&of_batch, None, &Site { bypass: Some(layer(&first)), ..site }), "W_0"),
        (folded(&of_batch, None, &Site { second: Layer { gamma: &first[1], ..site.second }, ..site }), "gamma"),
    ] {
        assert!(said.contains(word), "{word}: {said}");
    }
    let nothing = Pending::plain(Tensor::<f64>::zeros([0, 3, 2, 2]));
    assert!(message(sample_moments(&nothing, true)).contains("no moments"));
}

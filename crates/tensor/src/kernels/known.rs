//! Loops that know their channels, [`Vector::KNOWS`](crate::simd::Vector::KNOWS), against those of any channels: vectors of f64
//! know none. In tests only.

use super::conv::{
    Geometry, Options, Want, conv2d_pending, conv2d_pending_backward, conv2d_site, conv2d_site_backward,
};
use super::folded::{Layer, Site, folded_backward, folded_forward, sample_moments, sample_moments_backward};
use super::pending::{MaskedGrad, Norm, Pending, PendingGrad, Rectifier, Through};
use super::testing::assert_close;
use crate::random::randn;
use crate::{Real, Tensor};

/// Channels of input and output that a pointwise loop or a folded one knows, and some that none does.
const CHANNELS: [[usize; 2]; 4] = [[16, 16], [16, 32], [32, 64], [24, 20]];
/// Whole blocks of pixels; parts of one too.
const IMAGES: [[usize; 3]; 2] = [[18, 4, 8], [5, 3, 7]];

/// The same numbers in every type.
fn numbers<T: Real>(shape: &[usize], seed: u64) -> Tensor<T> {
    randn::<f32>(shape, seed).cast()
}

fn map<T: Real>(shape: [usize; 4], rectifier: Rectifier) -> Pending<T> {
    let vector = |seed| numbers(&[shape[1]], seed);
    let norm = Norm { mean: vector(1), scale: vector(2), shift: vector(3) };
    Pending::normed(numbers(&shape, 4), norm, rectifier).unwrap()
}

/// A gradient that has a batch norm to pass.
fn gradient<T: Real>(shape: &[usize]) -> PendingGrad<T> {
    let vectors = [5, 6, 7, 8].map(|seed| numbers(&[shape[1]], seed));
    PendingGrad { dy: numbers(shape, 9), through: Some(Through { z: numbers(shape, 10), vectors }) }
}

/// All of a gradient, as tensors.
fn tensors<T: Real>(grad: MaskedGrad<T>) -> Vec<Tensor<f64>> {
    let sums = grad.sums.into_iter().map(|sum| Tensor::from_memory([sum.len()], sum).unwrap());
    std::iter::once(grad.dy.cast()).chain(sums).collect()
}

/// (conv.1) to (conv.3) and the statistics.
fn convolved<T: Real>(x: &Pending<T>, w: &Tensor<T>, geo: &Geometry) -> Vec<Tensor<f64>> {
    let options = Options { statistics: true, ..Options::default() };
    let (y, stats) = conv2d_pending(x, w, None, geo, false, options).unwrap();
    let (stats, want) = (stats.unwrap(), Want { x: true, w: true, b: false });
    let grads = conv2d_pending_backward(x, w, &gradient(y.shape()), geo, false, want).unwrap();
    let own = [y, stats.mean, stats.var, grads.dw.unwrap()].map(|t| t.cast());
    own.into_iter().chain(tensors(grads.dx.unwrap())).collect()
}

/// (ft.1) to (ft.8), behind a depthwise convolution or, `made`, behind none.
fn folded<T: Real>(x: &Pending<T>, o: usize, gated: bool, made: bool) -> Vec<Tensor<f64>> {
    let ([n, c, _, _], m) = (x.z.dims("test", "x").unwrap(), 5);
    let shapes = [[o, c, 1, 1], [m, c, 1, 1], [o, m, 1, 1]];
    let weights: Vec<[Tensor<T>; 3]> = (20..)
        .zip(shapes)
        .map(|(seed, w)| [numbers(&w, seed), numbers(&w[..1], seed + 10), numbers(&w[..1], seed + 20)])
        .collect();
    let layer = |i: usize| {
        let [weight, gamma, beta] = &weights[i];
        Layer { weight, gamma, beta, eps: 1e-5 }
    };
    let site = Site { bypass: Some(layer(0)), first: layer(1), second: layer(2) };
    let a = gated.then(|| numbers::<T>(&[n, m], 50));
    let moments = sample_moments(x, gated).unwrap();
    let of = folded_forward(x, &moments, &site, a.as_ref(), Rectifier::Relu).unwrap();
    let (y, dy, correlations) = if made {
        (of.y.make(), numbers(of.y.shape(), 60), None)
    } else {
        let (w, geo) = (numbers(&[o, 1, 3, 3], 61), Geometry::default().groups(o).padding(1).stride(2));
        let (z, _) = conv2d_site(&of.y, &w, &geo, Options::default()).unwrap();
        let grads = conv2d_site_backward(&of.y, &w, &gradient(z.shape()), &geo, [true; 2]).unwrap();
        let (dy, correlations) = grads.dx.unwrap();
        (z, dy, Some(correlations))
    };
    let grads = folded_backward(&site, &of, PendingGrad::plain(dy), correlations).unwrap();
    let dx = sample_moments_backward(x, &moments, &grads.moments, Some(&grads.map)).unwrap();
    let alone = sample_moments_backward(x, &moments, &numbers(moments.shape(), 62), None).unwrap();
    let own = [moments, y, grads.moments, grads.a].map(|t| t.cast());
    own.into_iter().chain(tensors(dx)).chain(tensors(alone)).collect()
}

#[track_caller]
fn assert_all_close(what: &str, got: Vec<Tensor<f64>>, expected: Vec<Tensor<f64>>, tolerance: f64) {
    assert_eq!(got.len(), expected.len(), "{what}");
    for (i, (got, expected)) in got.iter().zip(&expected).enumerate() {
        assert_close(&format!("{what}: tensor {i}"), got, expected, tolerance);
    }
}

#[test]
fn known_channels_are_convolved_as_any() {
    let depthwise = [16, 32, 64, 24].map(|c| ([c, c], 3, c));
    for ([c, o], k, groups) in CHANNELS.map(|channels| (channels, 1, 1)).into_iter().chain(depthwise) {
        for [n, h, w] in IMAGES {
            for (stride, rectifier) in [(1, Rectifier::Relu), (1, Rectifier::Relu6), (k.min(2), Rectifier::Identity)] {
                let geo = Geometry::default().groups(groups).padding(k / 2).stride(stride);
                let shape = [o, c / groups, k, k];
                let single = convolved::<f32>(&map([n, c, h, w], rectifier), &numbers(&shape, 11), &geo);
                let double = convolved::<f64>(&map([n, c, h, w], rectifier), &numbers(&shape, 11), &geo);
                assert_all_close(&format!("{c} to {o}, {n} of {h} x {w}, {rectifier:?}"), single, double, 1e-5);
            }
        }
    }
}

#[test]
fn known_channels_are_folded_as_any() {
    for [c, o] in CHANNELS {
        for [n, h, w] in IMAGES {
            for (gated, made) in [(false, true), (false, false), (true, true), (true, false)] {
                let single = folded::<f32>(&map([n, c, h, w], Rectifier::Relu), o, gated, made);
                let double = folded::<f64>(&map([n, c, h, w], Rectifier::Relu), o, gated, made);
                assert_all_close(&format!("{c} to {o}, {n} of {h} x {w}, {gated} {made}"), single, double, 1e-4);
            }
        }
    }
}

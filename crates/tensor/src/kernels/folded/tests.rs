use super::*;
use crate::kernels::batch_norm::BatchStats;
use crate::kernels::conv::{
    Geometry, LARGE, Options, Want, conv2d_pending, conv2d_pending_backward, conv2d_site, conv2d_site_backward,
    reads_site,
};
use crate::kernels::pending::{MaskedGrad, Norm, Pending, PendingGrad, Rectifier};
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
            let grads = folded_backward(&site, &folded, dy, None).unwrap();
            let dx = sample_moments_backward(map, &moments, &grads.moments, Some(&grads.map)).unwrap().dy;
            let (w, geo) = (randn([o, 1, 3, 3], 70), Geometry::default().groups(o).padding(1).stride(2));
            let (z, _) = conv2d_site(&folded.y, &w, &geo, Options::default()).unwrap();
            let dz = PendingGrad::plain(randn(*z.shape(), 80));
            let of_conv = conv2d_site_backward(&folded.y, &w, &dz, &geo, [true; 2]).unwrap();
            let (dy, correlations) = of_conv.dx.unwrap();
            let through = folded_backward(&site, &folded, PendingGrad::plain(dy.clone()), Some(correlations));
            let through = through.unwrap();
            let of_layers = grads.layers.into_iter().chain(through.layers).flatten();
            [
                moments,
                folded.y.make(),
                grads.moments,
                grads.a,
                dx,
                z,
                dy,
                of_conv.dw.unwrap(),
                through.moments,
                through.a,
            ]
            .into_iter()
            .chain(of_layers.flat_map(|g| [g.weight, g.gamma, g.beta]))
            .collect()
        });
    }
}

/// A convolution behind a site makes the map row by row: the same bits as from the map in memory, and the same gradients
/// of the site as by a pass over the map's.
#[test]
fn a_site_made_where_it_is_read_is_the_same_site() {
    let kernels =
        [([3, 3], [1, 1], [1, 1]), ([3, 3], [2, 2], [1, 1]), ([5, 2], [1, 2], [2, 0]), ([1, 1], [2, 1], [0, 0])];
    for (i, [n, c, h, w]) in SHAPES.into_iter().enumerate() {
        let (o, m) = ([16, 20, 1, 33, 5, 17, 8][i], 3);
        let (bypass, first, second) = (values::<f64>(o, c, 20), values(m, c, 30), values(o, m, 40));
        let with_bypass = Site { bypass: Some(layer(&bypass)), first: layer(&first), second: layer(&second) };
        for (gated, rectifier) in [(true, Rectifier::Relu), (false, Rectifier::Relu6), (true, Rectifier::Identity)] {
            let site = Site { bypass: with_bypass.bypass.filter(|_| rectifier != Rectifier::Relu6), ..with_bypass };
            let map = &maps::<f64>([n, c, h, w])[2];
            let a = gated.then(|| randn([n, m], 50));
            let moments = sample_moments(map, gated).unwrap();
            let folded = folded_forward(map, &moments, &site, a.as_ref(), rectifier).unwrap();
            let made = Pending::rectified(&folded.y.make(), rectifier);
            for (taps, stride, padding) in kernels {
                let what = format!("{:?} -> {o}, {taps:?} by {stride:?}, gated {gated}, {rectifier:?}", [n, c, h, w]);
                let geo = Geometry { stride, padding, dilation: [1, 1 + stride[1] % 2], groups: o };
                let kernel = randn([o, 1, taps[0], taps[1]], 60);
                let options = Options { rectifier: Rectifier::Identity, statistics: n > 1 };
                let Ok((expected, stats)) = conv2d_pending(&made, &kernel, None, &geo, false, options) else {
                    assert!(message(conv2d_site(&folded.y, &kernel, &geo, options)).contains("larger"), "{what}");
                    continue;
                };
                let (z, own) = conv2d_site(&folded.y, &kernel, &geo, options).unwrap();
                assert_eq!(z.as_slice(), expected.as_slice(), "{what}");
                let vectors = |stats: Option<BatchStats<f64>>| stats.map(|s| [s.mean.to_vec(), s.var.to_vec()]);
                assert_eq!(vectors(own), vectors(stats), "{what}");

                let dz = PendingGrad::plain(randn(*z.shape(), 70));
                let want = Want { x: true, w: true, b: false };
                let expected = conv2d_pending_backward(&made, &kernel, &dz, &geo, false, want).unwrap();
                let got = conv2d_site_backward(&folded.y, &kernel, &dz, &geo, [true; 2]).unwrap();
                let (dy, correlations) = got.dx.unwrap();
                assert_eq!(dy.as_slice(), expected.dx.unwrap().dy.as_slice(), "{what}");
                assert_close(&what, &got.dw.unwrap(), &expected.dw.unwrap(), 1e-13);
                let [own, by_pass] = [Some(correlations), None].map(|correlations| {
                    let dy = PendingGrad::plain(dy.clone());
                    folded_backward(&site, &folded, dy, correlations).unwrap()
                });
                assert_close(&what, &own.moments, &by_pass.moments, 1e-11);
                assert_close(&what, &own.a, &by_pass.a, 1e-11);
                for (own, by_pass) in own.layers.iter().flatten().zip(by_pass.layers.iter().flatten()) {
                    assert_close(&what, &own.weight, &by_pass.weight, 1e-11);
                    assert_close(&what, &own.gamma, &by_pass.gamma, 1e-11);
                    assert_close(&what, &own.beta, &by_pass.beta, 1e-11);
                }
                let frozen = conv2d_site_backward(&folded.y, &kernel, &dz, &geo, [true, false]).unwrap();
                assert!(frozen.dw.is_none() && frozen.dx.unwrap().0.as_slice() == dy.as_slice(), "{what}");
                assert!(conv2d_site_backward(&folded.y, &kernel, &dz, &geo, [false, true]).unwrap().dx.is_none());
            }
        }
    }
}

/// The gradient of a map that is large enough to be streamed past the caches, of which each row is read as soon as it is made.
#[test]
fn a_large_site_made_where_it_is_read_is_the_same_site() {
    let ([n, c, h, w], [o, m]) = ([18, 3, 31, 30], [16, 5]);
    assert!(n * o * h * w * size_of::<f64>() >= LARGE);
    let (bypass, first, second) = (values::<f64>(o, c, 20), values(m, c, 30), values(o, m, 40));
    let site = Site { bypass: Some(layer(&bypass)), first: layer(&first), second: layer(&second) };
    let map = &maps::<f64>([n, c, h, w])[2];
    let (a, moments) = (randn([n, m], 50), sample_moments(map, true).unwrap());
    let folded = folded_forward(map, &moments, &site, Some(&a), Rectifier::Relu).unwrap();
    let made = Pending::rectified(&folded.y.make(), Rectifier::Relu);
    let (geo, kernel) = (Geometry::default().padding(1).stride(2).groups(o), randn([o, 1, 3, 3], 60));
    let [oh, ow] = geo.output(h, w, 3, 3).unwrap();
    let dz = PendingGrad::plain(randn([n, o, oh, ow], 70));
    let expected = conv2d_pending_backward(&made, &kernel, &dz, &geo, false, Want::ALL).unwrap();
    let (dy, correlations) = conv2d_site_backward(&folded.y, &kernel, &dz, &geo, [true; 2]).unwrap().dx.unwrap();
    assert!(dy.as_slice() == expected.dx.unwrap().dy.as_slice());
    let [own, by_pass] = [Some(correlations), None]
        .map(|given| folded_backward(&site, &folded, PendingGrad::plain(dy.clone()), given).unwrap());
    assert_close("moments", &own.moments, &by_pass.moments, 1e-11);
    assert_close("gates", &own.a, &by_pass.a, 1e-11);
}

/// One convolution with its batch norm is a site whose branch gives nothing, (ft.9) and (ft.1) to (ft.8).
#[test]
fn a_single_convolution_is_a_site_without_a_branch() {
    for (i, shape) in SHAPES.into_iter().enumerate() {
        let [n, c, h, w] = shape;
        let (o, rectifier) =
            ([16, 20, 1, 33, 5, 17, 8][i], [Rectifier::Relu, Rectifier::Relu6, Rectifier::Identity][i % 3]);
        let (bypass, first) = (values::<f64>(o, c, 20), values(1, c, 30));
        let nothing = [Tensor::zeros([o, 1, 1, 1]), Tensor::ones([o]), Tensor::zeros([o])];
        let site = Site { bypass: Some(layer(&bypass)), first: layer(&first), second: layer(&nothing) };
        for map in &maps::<f64>(shape) {
            let what = format!("{shape:?} -> {o}, {rectifier:?}, pending {}", !map.is_plain());
            let moments = sample_moments(map, false).unwrap();
            let single = single_forward(map, &moments, &layer(&bypass), rectifier).unwrap();
            let folded = folded_forward(map, &moments, &site, None, rectifier).unwrap();
            let (y, stats) = (single.y.make(), folded.stats[0].as_ref().unwrap());
            assert_close(&what, &y, &folded.y.make(), 1e-12);
            assert_close(&what, &single.stats.mean, &stats.mean, 1e-14);
            assert_close(&what, &single.stats.var, &stats.var, 1e-14);
            assert_eq!(single.stats.count, n * h * w, "{what}");

            let dy = MaskedGrad::of(&Pending::rectified(&y, rectifier), randn(*y.shape(), 60)).unwrap().dy;
            let plain = || PendingGrad::plain(dy.clone());
            let got = single_backward(&layer(&bypass), &single, plain(), None).unwrap();
            let expected = folded_backward(&site, &folded, plain(), None).unwrap();
            assert_close(&what, &got.moments, &expected.moments, 1e-10);
            let of_bypass = expected.layers[0].as_ref().unwrap();
            assert_close(&what, &got.layer.weight, &of_bypass.weight, 1e-10);
            assert_close(&what, &got.layer.gamma, &of_bypass.gamma, 1e-10);
            assert_close(&what, &got.layer.beta, &of_bypass.beta, 1e-12);
            let dx = |grad, left| sample_moments_backward(map, &moments, grad, Some(left)).unwrap().dy;
            assert_close(&what, &dx(&got.moments, &got.map), &dx(&expected.moments, &expected.map), 1e-10);

            // Read by a depthwise convolution, which gathers on the way.
            let (w, geo) = (randn([o, 1, 3, 3], 70), Geometry::default().groups(o).padding(1));
            let (z, _) = conv2d_site(&single.y, &w, &geo, Options::default()).unwrap();
            let dz = PendingGrad::plain(randn(*z.shape(), 80));
            let of_conv = conv2d_site_backward(&single.y, &w, &dz, &geo, [true; 2]).unwrap();
            let (dy, correlations) = of_conv.dx.unwrap();
            let [own, by_pass] = [Some(correlations), None].map(|correlations| {
                let dy = PendingGrad::plain(dy.clone());
                single_backward(&layer(&bypass), &single, dy, correlations).unwrap()
            });
            assert_close(&what, &own.moments, &by_pass.moments, 1e-10);
            assert_close(&what, &own.layer.weight, &by_pass.layer.weight, 1e-10);
        }
    }
}

/// Where it is used a piece of the batch has thousands of pixels, which are summed up in f32.
#[test]
fn a_single_convolution_of_a_large_map_keeps_its_digits() {
    let of = values::<f64>(48, 8, 20).map(|of| of.map(|v| f64::from(v as f32)));
    let single = of.each_ref().map(|of| of.cast::<f32>());
    let noise = randn::<f64>([128, 8, 32, 32], 1);
    // Channels that differ by so much of their deviation; a variance loses that twice, and C has the digits of f32 in the end.
    for (apart, tolerance) in [(1.0, 1e-5), (0.01, 5e-4)] {
        let x = Tensor::from_fn([128, 8, 32, 32], |i| {
            let [n, c, h, w] = [i[0], i[1], i[2], i[3]];
            let common = if apart < 1.0 { noise.view()[[n, 0, w, h]] } else { 0.0 };
            f64::from((3.0 + common + apart * noise.view()[[n, c, h, w]]) as f32)
        });
        let outputs = |x: Pending<f64>| {
            let moments = sample_moments(&x, false).unwrap();
            single_forward(&x, &moments, &layer(&of), Rectifier::Relu).unwrap()
        };
        let truth = outputs(Pending::plain(x.clone()));
        let x = Pending::plain(x.cast::<f32>());
        let moments = sample_moments(&x, false).unwrap();
        let got = single_forward(&x, &moments, &layer(&single), Rectifier::Relu).unwrap();
        assert_close("y", &got.y.make().cast(), &truth.y.make(), tolerance);
        assert_close("variance", &got.stats.var.cast(), &truth.stats.var, tolerance);
    }
}

#[test]
fn a_nan_reaches_the_statistics() {
    let mut x = randn::<f32>([2, 3, 4, 4], 1);
    x.as_mut_slice()[4] = f32::NAN;
    let x = Pending::plain(x);
    let moments = sample_moments(&x, false).unwrap();
    let stats = single_forward(&x, &moments, &layer(&values(5, 3, 3)), Rectifier::Relu).unwrap().stats;
    assert!(stats.var.as_slice().iter().chain(stats.mean.as_slice()).all(|v| v.is_nan()));
}

#[test]
fn a_single_convolution_that_does_not_fit_is_refused() {
    let (map, of) = (Pending::plain(randn::<f64>([2, 3, 4, 4], 1)), values(5, 3, 3));
    let moments = sample_moments(&map, false).unwrap();
    let single = single_forward(&map, &moments, &layer(&of), Rectifier::Relu).unwrap();
    let forward = |of: &Values<f64>, moments| message(single_forward(&map, moments, &layer(of), Rectifier::Relu));
    assert!(forward(&values(5, 4, 3), &moments).contains('W'));
    assert!(forward(&of, &sample_moments(&map, true).unwrap()).contains("moments"));
    let dy = |shape: [usize; 4]| PendingGrad::plain(randn::<f64>(shape, 2));
    let backward = |of: &Values<f64>, dy| message(single_backward(&layer(of), &single, dy, None));
    assert!(backward(&of, dy([2, 4, 4, 4])).contains("dy"));
    assert!(backward(&values(4, 3, 3), dy([2, 5, 4, 4])).contains('W'));
    let one = Pending::plain(randn::<f64>([1, 3, 1, 1], 1));
    let moments = sample_moments(&one, false).unwrap();
    assert!(message(single_forward(&one, &moments, &layer(&of), Rectifier::Relu)).contains("no variance"));
}

#[test]
fn only_a_depthwise_convolution_reads_a_site() {
    let (first, second) = (values::<f64>(5, 3, 3), values(4, 5, 6));
    let site = Site { bypass: None, first: layer(&first), second: layer(&second) };
    let map = Pending::plain(randn::<f64>([2, 3, 4, 4], 1));
    let y = folded_forward(&map, &sample_moments(&map, false).unwrap(), &site, None, Rectifier::Relu).unwrap().y;
    let (dense, depthwise) = (Geometry::default(), Geometry::default().groups(4));
    let said = message(conv2d_site(&y, &randn([4, 4, 3, 3], 2), &dense, Options::default()));
    assert!(said.contains("depthwise"), "{said}");
    assert!(!reads_site(&y, &randn([4, 4, 3, 3], 2), &dense) && reads_site(&y, &randn([4, 1, 3, 3], 2), &depthwise));
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
    let (made, other) = (folded_forward(&map, &of_batch, &site, None, Rectifier::Identity).unwrap(), values(3, 5, 6));
    let dy = PendingGrad::plain(randn([2, 4, 2, 2], 2));
    let another = Site { bypass: None, second: layer(&other), ..site };
    let said = message(folded_backward(&another, &made, dy, None).map(|_| ()));
    assert!(said.contains("W_2"), "{said}");
    let nothing = Pending::plain(Tensor::<f64>::zeros([0, 3, 2, 2]));
    assert!(message(sample_moments(&nothing, true)).contains("no moments"));
}

//! Every path against the definition, over a table of awkward geometries and over random ones.

use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use super::plan::Path;
use super::*;
use crate::kernels::pending::{Norm, PendingSum};
use crate::kernels::testing::{assert_close, assert_same_bits, message};
use crate::random::randn;
use crate::reference::conv as reference;
use crate::simd::registers;

/// One convolution: `x [N,C,H,W]`, `[O, kh, kw]` of the kernels, and the geometry.
#[derive(Clone, Copy, Debug)]
struct Case {
    x: [usize; 4],
    w: [usize; 3],
    geo: Geometry,
}

impl Case {
    fn w_shape(&self, samples: usize) -> [usize; 4] {
        let [o, kh, kw] = self.w;
        [samples * o, self.x[1] / self.geo.groups, kh, kw]
    }

    fn path(&self) -> Path {
        let (x, w) = (Tensor::<f32>::zeros(self.x), Tensor::zeros(self.w_shape(1)));
        Path::of::<f32>(&Sizes::check("conv2d", &x, &w, &self.geo, false).unwrap())
    }
}

fn case(x: [usize; 4], w: [usize; 3], geo: Geometry) -> Case {
    Case { x, w, geo }
}

fn table() -> Vec<(Path, &'static str, Case)> {
    use Path::{Columns, Dense, Depthwise, Pointwise};
    let geo = Geometry::default();
    let winograd = if registers::<f32>() >= 32 { Path::Winograd } else { Dense };
    let tall = Geometry { padding: [1, 0], ..geo };
    let lopsided = Geometry { stride: [2, 1], padding: [0, 2], dilation: [1, 3], groups: 2 };
    vec![
        (Pointwise, "1x1", case([2, 5, 7, 6], [4, 1, 1], geo)),
        (Pointwise, "1x1, one channel in, one out, batch 1", case([1, 1, 3, 2], [1, 1, 1], geo)),
        (Pointwise, "1x1 on one pixel", case([3, 8, 1, 1], [9, 1, 1], geo)),
        (Pointwise, "1x1 over several tasks", case([5, 24, 33, 31], [40, 1, 1], geo)),
        (Dense, "1x1 with stride 2 on an odd size", case([2, 5, 7, 9], [4, 1, 1], geo.stride(2))),
        (Dense, "1x1 with padding", case([2, 3, 4, 5], [4, 1, 1], geo.padding(1))),
        (Columns, "1x1 in groups", case([2, 6, 4, 5], [4, 1, 1], geo.groups(2))),
        (Dense, "3x3", case([2, 3, 6, 5], [4, 3, 3], geo.padding(1))),
        (Dense, "3x3 without padding, batch 1", case([1, 2, 5, 4], [3, 3, 3], geo)),
        (winograd, "3x3 in tiles", case([3, 3, 6, 16], [16, 3, 3], geo.padding(1))),
        (winograd, "3x3 in tiles over several tasks", case([5, 5, 32, 18], [20, 3, 3], geo.padding(1))),
        (winograd, "3x3 in tiles, many channels, no padding", case([2, 64, 4, 20], [33, 3, 3], geo)),
        (Dense, "3x3 with a row too many for tiles", case([2, 3, 7, 16], [4, 3, 3], geo.padding(1))),
        (Dense, "3x3 with stride 2 on odd sizes", case([2, 3, 7, 9], [4, 3, 3], geo.stride(2).padding(1))),
        (Dense, "3x3 with stride 2 that leaves a row over", case([2, 3, 6, 8], [4, 3, 3], geo.stride(2))),
        (Dense, "3x3 with dilation 2", case([2, 3, 7, 6], [4, 3, 3], geo.dilation(2).padding(2))),
        (
            Dense,
            "3x3 with stride 3 and dilation 2",
            case([2, 3, 11, 10], [4, 3, 3], geo.stride(3).dilation(2).padding(1)),
        ),
        (Dense, "2x2 with stride 3: pixels that no tap reaches", case([2, 3, 7, 8], [4, 2, 2], geo.stride(3))),
        (Dense, "one group, unequal along the axes", case([2, 4, 7, 6], [6, 2, 3], lopsided.groups(1))),
        (Columns, "3x3 in three groups", case([2, 6, 5, 7], [9, 3, 3], geo.groups(3).padding(1))),
        (Columns, "groups, stride and dilation", case([2, 4, 9, 8], [6, 3, 3], geo.groups(2).stride(2).dilation(2))),
        (Dense, "5x5 larger than the image", case([2, 3, 2, 3], [4, 5, 5], geo.padding(2))),
        (Dense, "3x1", case([2, 3, 6, 5], [4, 3, 1], tall)),
        (Dense, "1x3", case([2, 3, 6, 5], [4, 1, 3], Geometry { padding: [0, 1], ..geo })),
        (Columns, "unequal along the axes", case([2, 4, 7, 6], [6, 2, 3], lopsided)),
        (Dense, "padding beyond the kernel", case([1, 2, 2, 3], [3, 2, 2], geo.padding(3))),
        (Columns, "depthwise with two kernels a channel", case([2, 4, 7, 6], [8, 3, 3], geo.groups(4).padding(1))),
        (Dense, "3x3 over several tiles and tasks", case([5, 8, 33, 31], [12, 3, 3], geo.padding(1))),
        (Dense, "3x3, deep, small maps", case([9, 64, 4, 4], [48, 3, 3], geo.padding(1))),
        (Dense, "rows of four pixels, five of them", case([9, 20, 5, 4], [17, 3, 3], geo.padding(1))),
        (
            Dense,
            "rows of four pixels, the kernel larger than the image",
            case([5, 3, 2, 4], [35, 5, 5], geo.padding(2)),
        ),
        (Dense, "rows of four pixels by stride 2", case([19, 6, 8, 8], [40, 3, 3], geo.stride(2).padding(1))),
        (Dense, "rows of four pixels by dilation 2", case([3, 5, 4, 4], [7, 3, 3], geo.dilation(2).padding(2))),
        (Dense, "rows of four pixels without padding", case([3, 5, 8, 6], [7, 3, 3], geo)),
        (Dense, "a row of four pixels", case([3, 5, 1, 4], [7, 1, 3], Geometry { padding: [0, 1], ..geo })),
        (Dense, "rows of four pixels, no row of taps over all", case([3, 5, 4, 4], [7, 2, 3], geo.padding(1))),
        (Dense, "3x3, several small images a block", case([37, 3, 4, 5], [4, 3, 3], geo.padding(1))),
        (Dense, "the same with stride 2", case([50, 2, 7, 5], [3, 3, 3], geo.stride(2).padding(1))),
        (Dense, "the same with dilation 2", case([35, 2, 5, 4], [3, 3, 3], geo.dilation(2).padding(2))),
        (Depthwise, "depthwise", case([2, 6, 5, 7], [6, 3, 3], geo.groups(6).padding(1))),
        (
            Depthwise,
            "depthwise with stride 2 on odd sizes",
            case([2, 5, 7, 9], [5, 3, 3], geo.groups(5).stride(2).padding(1)),
        ),
        (
            Depthwise,
            "depthwise with stride 2 on even sizes",
            case([2, 5, 8, 6], [5, 3, 3], geo.groups(5).stride(2).padding(1)),
        ),
        (Depthwise, "depthwise 5x5 larger than the image", case([1, 3, 3, 2], [3, 5, 5], geo.groups(3).padding(2))),
        (Depthwise, "depthwise with dilation", case([2, 3, 8, 7], [3, 3, 3], geo.groups(3).dilation(2).padding(1))),
        (Depthwise, "depthwise 1x1", case([2, 3, 4, 5], [3, 1, 1], geo.groups(3))),
        (Depthwise, "depthwise 3x1", case([2, 3, 4, 5], [3, 3, 1], tall.groups(3))),
        (
            Depthwise,
            "depthwise, padding beyond the kernel",
            case([1, 2, 2, 3], [2, 2, 2], geo.groups(2).padding(3).stride(3)),
        ),
        (Depthwise, "one channel", case([2, 1, 5, 6], [1, 3, 3], geo.padding(1))),
        (Depthwise, "depthwise over several tasks", case([5, 24, 33, 31], [24, 3, 3], geo.groups(24).padding(1))),
    ]
}

/// Depthwise kernels of 3 x 3 taps go through registers at stride 1 and 2: all small extents, channels that fill vectors and
/// that do not, every sort of pending map, against the definition of the made one.
#[test]
fn three_taps_by_three_at_every_edge() {
    fn check<T: Real>(tolerance: f64) {
        for (stride, c) in [(1, 3), (2, 3), (1, 16), (2, 16), (1, 37), (2, 37)] {
            let geo = Geometry::default().groups(c).stride(stride).padding(1);
            let (w, vector) = (randn::<T>([c, 1, 3, 3], 1), |seed| randn::<T>([c], seed));
            for (h, width) in (1..=7).flat_map(|h| [1, 2, 3, 4, 5, 8, 17].map(|w| (h, w))) {
                let z = || randn::<T>([2, c, h, width], 2);
                let norm = || Norm { mean: vector(3), scale: vector(4), shift: vector(5) };
                for map in [
                    Pending::plain(z()),
                    Pending::normed(z(), norm(), Rectifier::Identity).unwrap(),
                    Pending::normed(z(), norm(), Rectifier::Relu).unwrap(),
                    Pending::normed(z(), norm(), Rectifier::Relu6).unwrap(),
                    Pending::rectified(&z().map(|v| v.max(T::zero())), Rectifier::Relu),
                ] {
                    let (what, x) = (format!("{c} at {h} x {width} by {stride}, {:?}", map.rectifier), map.make());
                    let options = Options { rectifier: Rectifier::Identity, statistics: false };
                    let (y, _) = conv2d_pending(&map, &w, None, &geo, false, options).unwrap();
                    assert_close(&what, &y, &reference::conv2d(&x, &w, None, &geo).unwrap(), tolerance);

                    let dy = randn::<T>(*y.shape(), 6);
                    let expected = reference::conv2d_backward(&x, &w, &dy, &geo).unwrap();
                    let masked = MaskedGrad::of(&map, expected.dx.unwrap()).unwrap();
                    let backward = |want| {
                        let dy = PendingGrad::plain(dy.clone());
                        conv2d_pending_backward(&map, &w, &dy, &geo, false, want).unwrap()
                    };
                    let got = backward(Want { x: true, w: true, b: false });
                    let dx = got.dx.unwrap();
                    assert_close(&format!("{what}, dx"), &dx.dy, &masked.dy, tolerance);
                    let dw = got.dw.unwrap();
                    assert_close(&format!("{what}, dw"), &dw, &expected.dw.unwrap(), tolerance);
                    for (got, expected) in dx.sums.iter().zip(&masked.sums) {
                        let [got, expected] =
                            [got, expected].map(|v| Tensor::from_memory([v.len()], v.clone()).unwrap());
                        assert_close(&format!("{what}, sums"), &got, &expected, tolerance);
                    }
                    let alone = backward(Want { x: true, w: false, b: false });
                    assert!(alone.dx.unwrap().dy.as_slice() == dx.dy.as_slice() && alone.dw.is_none(), "{what}");
                    let alone = backward(Want { x: false, w: true, b: false });
                    assert!(alone.dw.unwrap().as_slice() == dw.as_slice() && alone.dx.is_none(), "{what}");
                }
            }
        }
    }
    check::<f64>(1e-12);
    check::<f32>(1e-4);
}

/// Holds forward and backward, shared kernels and per sample, against the definition.
fn check<T: Real>(name: &str, case: &Case, tolerance: f64) {
    let (geo, n, o) = (&case.geo, case.x[0], case.w[0]);
    let name = format!("{name} in {}", T::DTYPE);
    let x = randn::<f64>(case.x, 1).cast::<T>();
    let all = |what: &str, got: ConvGrads<T>, expected: ConvGrads<T>| {
        for (grad, got, expected) in
            [("dx", got.dx, expected.dx), ("dw", got.dw, expected.dw), ("db", got.db, expected.db)]
        {
            assert_close(&format!("{name}, {what} {grad}"), &got.unwrap(), &expected.unwrap(), tolerance);
        }
    };

    let (w, b) = (randn::<f64>(case.w_shape(1), 2).cast(), randn::<f64>([o], 3).cast());
    let y = reference::conv2d(&x, &w, Some(&b), geo).unwrap();
    assert_close(&name, &conv2d(&x, &w, Some(&b), geo).unwrap(), &y, tolerance);
    let plain = reference::conv2d(&x, &w, None, geo).unwrap();
    assert_close(&format!("{name}, no bias"), &conv2d(&x, &w, None, geo).unwrap(), &plain, tolerance);
    let dy = randn::<f64>(y.shape(), 4).cast();
    let got = conv2d_backward(&x, &w, &dy, geo, Want::ALL).unwrap();
    all("shared", got, reference::conv2d_backward(&x, &w, &dy, geo).unwrap());

    let (w, b) = (randn::<f64>(case.w_shape(n), 5).cast(), randn::<f64>([n, o], 6).cast());
    let y = reference::conv2d_per_sample(&x, &w, Some(&b), geo).unwrap();
    let what = format!("{name}, per sample");
    assert_close(&what, &conv2d_per_sample(&x, &w, Some(&b), geo).unwrap(), &y, tolerance);
    let got = conv2d_per_sample_backward(&x, &w, &dy, geo, Want::ALL).unwrap();
    all("per sample", got, reference::conv2d_per_sample_backward(&x, &w, &dy, geo).unwrap());
}

#[test]
fn every_path_equals_the_definition() {
    for (path, name, case) in table() {
        assert_eq!(case.path(), path, "{name}");
        check::<f64>(name, &case, 1e-12);
        check::<f32>(name, &case, 1e-5);
    }
}

/// Any geometry whose kernel fits: groups, rectangular kernels, unequal stride, padding and dilation.
fn any_case() -> impl Strategy<Value = Case> {
    let axes = |range: std::ops::Range<usize>| [range.clone(), range];
    let sizes = (1..4usize, 1..4usize, 1..4usize, axes(1..10), axes(1..6), 1..4usize);
    (sizes, axes(1..4), axes(0..4), axes(1..4), any::<bool>())
        .prop_map(|((n, cg, og, [h, l], [kh, kw], groups), stride, padding, dilation, depthwise)| {
            let (cg, og) = if depthwise { (1, 1) } else { (cg, og) };
            let geo = Geometry { stride, padding, dilation, groups };
            case([n, cg * groups, h, l], [og * groups, kh, kw], geo)
        })
        .prop_filter("kernel larger than the padded image", |case| {
            case.geo.output(case.x[2], case.x[3], case.w[1], case.w[2]).is_some()
        })
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 300,
        rng_seed: RngSeed::Fixed(7),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn random_geometries_equal_the_definition(case in any_case()) {
        check::<f64>("random", &case, 1e-12);
        check::<f32>("random", &case, 1e-5);
    }
}

#[test]
fn a_convolution_by_hand() {
    let x = Tensor::from_vec([1, 1, 2, 3], vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0]).unwrap();
    let w = Tensor::from_vec([1, 1, 1, 2], vec![10.0, 1.0]).unwrap();
    let b = Tensor::from_vec([1], vec![0.5]).unwrap();
    let y = conv2d(&x, &w, Some(&b), &Geometry::default()).unwrap();
    assert_eq!((y.shape().to_vec(), y.to_vec()), (vec![1, 1, 2, 2], vec![12.5, 23.5, 45.5, 56.5]));
}

/// (conv.1) is linear in x and in w, so ⟨dy, y⟩ = ⟨dx, x⟩ = ⟨dw, w⟩: the gradients without their own equations.
#[test]
fn gradients_are_adjoint_to_the_forward() {
    let dot = |a: &Tensor<f64>, b: &Tensor<f64>| a.as_slice().iter().zip(b.as_slice()).map(|(a, b)| a * b).sum::<f64>();
    for (_, name, case) in table() {
        let (x, w) = (randn(case.x, 1), randn(case.w_shape(1), 2));
        let y = conv2d(&x, &w, None, &case.geo).unwrap();
        let dy = randn(y.shape(), 3);
        let grads = conv2d_backward(&x, &w, &dy, &case.geo, Want::ALL).unwrap();
        let (expected, scale) = (dot(&dy, &y), dot(&y, &y).sqrt() * dot(&dy, &dy).sqrt());
        for got in [dot(&grads.dx.unwrap(), &x), dot(&grads.dw.unwrap(), &w)] {
            assert!((got - expected).abs() < 1e-12 * scale, "{name}: {got} against {expected}");
        }
    }
}

#[test]
fn the_bits_do_not_depend_on_the_number_of_threads() {
    for (_, name, case) in table() {
        let n = case.x[0];
        let (x, w, own) = (randn(case.x, 1), randn(case.w_shape(1), 2), randn(case.w_shape(n), 3));
        assert_same_bits(name, || {
            let y = conv2d(&x, &w, None, &case.geo).unwrap();
            let z = conv2d_per_sample(&x, &own, None, &case.geo).unwrap();
            let dy = randn(y.shape(), 4);
            let shared = conv2d_backward(&x, &w, &dy, &case.geo, Want::ALL).unwrap();
            let own = conv2d_per_sample_backward(&x, &own, &dy, &case.geo, Want::ALL).unwrap();
            let grads = [shared.dx, shared.dw, shared.db, own.dx, own.dw, own.db];
            [y, z].into_iter().chain(grads.into_iter().flatten()).collect()
        });
    }
}

#[test]
fn only_what_is_wanted_comes_back() {
    let (x, w, dy) = (randn::<f32>([2, 3, 4, 4], 1), randn([5, 3, 1, 1], 2), randn([2, 5, 4, 4], 3));
    for [x_wanted, w_wanted, b_wanted] in [[true, false, false], [false, true, false], [false, false, true]] {
        let want = Want { x: x_wanted, w: w_wanted, b: b_wanted };
        let grads = conv2d_backward(&x, &w, &dy, &Geometry::default(), want).unwrap();
        assert_eq!([grads.dx.is_some(), grads.dw.is_some(), grads.db.is_some()], [x_wanted, w_wanted, b_wanted]);
    }
}

#[test]
fn an_empty_batch_has_an_empty_output_and_zero_gradients() {
    for (_, name, case) in table() {
        let (x, w) = (Tensor::<f32>::zeros([0, case.x[1], case.x[2], case.x[3]]), randn(case.w_shape(1), 2));
        let y = conv2d(&x, &w, None, &case.geo).unwrap();
        assert_eq!((y.shape()[0], y.shape()[1]), (0, case.w[0]), "{name}");
        let grads = conv2d_backward(&x, &w, &y, &case.geo, Want::ALL).unwrap();
        assert_eq!(grads.dw.unwrap(), Tensor::zeros(w.shape()), "{name}");
        assert_eq!(grads.db.unwrap(), Tensor::zeros([case.w[0]]), "{name}");
        assert_eq!(grads.dx.unwrap().shape(), x.shape(), "{name}");
    }
}

#[test]
fn a_nan_in_the_input_is_seen_in_the_output() {
    for (_, name, case) in table() {
        let x = Tensor::<f32>::full(case.x, f32::NAN);
        let y = conv2d(&x, &Tensor::zeros(case.w_shape(1)), None, &case.geo).unwrap();
        assert!(!y.is_finite(), "{name}");
    }
}

#[test]
fn the_output_extents_follow_the_formula() {
    let geo = Geometry::default();
    assert_eq!(geo.output(5, 7, 3, 3), Some([3, 5]));
    assert_eq!(geo.stride(2).padding(1).output(7, 8, 3, 3), Some([4, 4]));
    assert_eq!(geo.dilation(2).output(5, 6, 3, 3), Some([1, 2]));
    assert_eq!(geo.output(2, 7, 3, 3), None, "the kernel is larger than the image");
    assert_eq!(geo.output(5, 5, 0, 3), None);
    assert_eq!(geo.stride(0).output(5, 5, 3, 3), None);
    assert_eq!(geo.padding(usize::MAX).output(5, 5, 3, 3), None, "no overflow");
    assert_eq!(geo.dilation(usize::MAX).output(5, 5, 3, 3), None, "no overflow");
}

#[test]
fn wrong_shapes_are_errors_that_name_the_argument() {
    let geo = Geometry::default();
    let forward = |x: &[usize], w: &[usize], b: Option<&[usize]>, geo: Geometry| {
        let b = b.map(Tensor::<f32>::zeros);
        message(conv2d(&Tensor::zeros(x), &Tensor::zeros(w), b.as_ref(), &geo))
    };
    let x = &[2, 4, 5, 6][..];
    for (got, expected) in [
        (forward(&[2, 4, 5], &[8, 4, 3, 3], None, geo), "conv2d: `x` has shape [2, 4, 5], expected rank 4"),
        (forward(x, &[8, 4], None, geo), "conv2d: `w` has shape [8, 4], expected rank 4"),
        (forward(x, &[8, 3, 3, 3], None, geo), "`w` has shape [8, 3, 3, 3], expected [O, 4, kh, kw]"),
        (forward(x, &[8, 4, 3, 3], None, geo.groups(2)), "expected [O, 2, kh, kw] for 4 input channels in 2 groups"),
        (forward(x, &[8, 4, 3, 3], None, geo.groups(3)), "3 groups do not divide 4 input channels"),
        (forward(x, &[7, 2, 3, 3], None, geo.groups(2)), "4 input channels and 7 output channels"),
        (forward(x, &[8, 4, 3, 3], None, geo.groups(0)), "must be at least 1"),
        (forward(x, &[8, 4, 3, 3], None, geo.stride(0)), "must be at least 1"),
        (forward(x, &[8, 4, 3, 3], None, geo.dilation(0)), "must be at least 1"),
        (forward(x, &[8, 4, 6, 3], None, geo), "a 6x3 kernel with dilation [1, 1] is larger than the 5x6 image"),
        (forward(x, &[8, 4, 0, 3], None, geo), "at least one kernel and one tap"),
        (forward(x, &[0, 4, 3, 3], None, geo), "at least one kernel and one tap"),
        (forward(&[2, 0, 5, 6], &[8, 0, 3, 3], None, geo), "at least one channel"),
        (forward(&[2, 4, 0, 6], &[8, 4, 3, 3], None, geo.padding(2)), "at least one channel and one pixel"),
        (forward(x, &[8, 4, 3, 3], Some(&[4]), geo), "`b` has shape [4], expected [8]"),
        (forward(x, &[8, 4, 1, 1], None, geo.padding(1 << 40)), "does not fit in memory"),
    ] {
        assert!(got.contains(expected), "{got:?} does not say {expected:?}");
    }

    let (x, w, dy) = (Tensor::<f32>::zeros(x), Tensor::zeros([8, 4, 3, 3]), Tensor::zeros([2, 8, 3, 3]));
    let backward = message(conv2d_backward(&x, &w, &dy, &geo, Want::ALL));
    assert_eq!(backward, "conv2d_backward: `dy` has shape [2, 8, 3, 3], expected [2, 8, 3, 4]");
    let own =
        |w: [usize; 4], b: [usize; 2]| message(conv2d_per_sample(&x, &Tensor::zeros(w), Some(&Tensor::zeros(b)), &geo));
    assert!(own([7, 4, 3, 3], [2, 4]).contains("O kernels for each of 2 samples"));
    assert!(own([8, 4, 3, 3], [2, 8]).contains("`b` has shape [2, 8], expected [2, 4]"));
    let none = Tensor::<f32>::zeros([0, 4, 5, 6]);
    assert!(message(conv2d_per_sample(&none, &w, None, &geo)).contains("each of 0 samples"));
}

/// A gradient that is streamed past the caches, as in tests wherever there are stores for it, has the bits of its parts,
/// which are too small for that.
#[test]
fn a_large_depthwise_gradient_has_the_bits_of_its_parts() {
    let geo = Geometry::default().padding(1);
    // 20 channels are no whole lines of the cache.
    for (c, [h, w], geo) in [(16, [31, 29], geo.stride(2)), (48, [19, 16], geo), (20, [31, 29], geo.stride(2))] {
        let (n, pixels, geo) = (38, c * h * w, geo.groups(c));
        let bytes = n * pixels * size_of::<f32>();
        assert!(bytes >= LARGE && bytes / 2 < LARGE, "large enough to be streamed, its half is not");
        let kernels = randn::<f32>([c, 1, 3, 3], 1);
        let [mean, scale, shift] = [2, 3, 4].map(|seed| randn([c], seed));
        let norm = Norm { mean, scale, shift };
        let z = randn([n, c, h, w], 5);
        let [oh, ow] = geo.output(h, w, 3, 3).unwrap();
        let dy = randn([n, c, oh, ow], 6);
        let part = |of: &Tensor<f32>, [c, h, w]: [usize; 3], images: std::ops::Range<usize>| {
            let values = of.as_slice()[images.start * c * h * w..images.end * c * h * w].to_vec();
            Tensor::from_memory([images.len(), c, h, w], values).unwrap()
        };
        let of_images = |images: std::ops::Range<usize>| {
            let x = Pending::normed(part(&z, [c, h, w], images.clone()), norm.clone(), Rectifier::Relu6).unwrap();
            let dy = PendingGrad::plain(part(&dy, [c, oh, ow], images));
            let grads = conv2d_pending_backward(&x, &kernels, &dy, &geo, false, Want { x: true, w: true, b: false });
            let MaskedGrad { dy, sums } = grads.unwrap().dx.unwrap();
            (dy, sums)
        };
        let ((all, sums), halves) = (of_images(0..n), [of_images(0..n / 2), of_images(n / 2..n)]);
        let of_halves: Vec<f32> = halves.iter().flat_map(|(dy, _)| dy.as_slice()).copied().collect();
        let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        assert!(bits(all.as_slice()) == bits(&of_halves), "{c} channels");
        for (i, sums) in sums.iter().enumerate() {
            for (at, sum) in sums.iter().enumerate() {
                let of_halves = halves[0].1[i][at] + halves[1].1[i][at];
                let rounding = 1e-6 * (n * h * w) as f64;
                assert!((sum - of_halves).abs() <= rounding, "{c} channels: {sum} {of_halves}");
            }
        }
    }
}

/// Behind a batch norm, plain, and behind another batch norm: maps that may meet without a rectifier of their own.
fn branches<T: Real>(shape: [usize; 4]) -> Vec<Pending<T>> {
    let normed = |seed: u64| {
        let [mean, scale, shift] = [0, 1, 2].map(|i| randn([shape[1]], seed + i));
        Pending::normed(randn(shape, seed + 3), Norm { mean, scale, shift }, Rectifier::Identity).unwrap()
    };
    vec![normed(30), Pending::plain(randn(shape, 40)), normed(50)]
}

/// The bits of the sum in memory, and the gradients of its maps as a pass over each gives them.
#[test]
fn a_sum_made_where_it_is_read_is_the_same_sum() {
    let strided = Geometry { stride: [2, 1], padding: [0, 2], dilation: [1, 2], groups: 1 };
    for (shape, taps, geo) in [
        ([2, 16, 6, 5], [3, 3], Geometry::default().padding(1)),
        ([3, 5, 7, 9], [3, 3], Geometry::default().padding(1).stride(2)),
        ([1, 1, 4, 5], [3, 3], Geometry::default().padding(1)),
        ([2, 33, 6, 7], [2, 3], strided),
        ([19, 24, 8, 9], [3, 3], Geometry::default().padding(1).stride(2)),
        // Large enough to be streamed.
        ([19, 16, 29, 31], [3, 3], Geometry::default().padding(1).stride(2)),
    ] {
        let geo = geo.groups(shape[1]);
        let w = randn::<f64>([shape[1], 1, taps[0], taps[1]], 60);
        for (count, rectifier) in
            [(1, Rectifier::Relu), (2, Rectifier::Relu6), (3, Rectifier::Relu), (2, Rectifier::Identity)]
        {
            let what = format!("{count} of {shape:?}, {geo:?}, {rectifier:?}");
            let maps = branches::<f64>(shape)[..count].to_vec();
            let sum = PendingSum::new(maps.clone(), rectifier).unwrap();
            let made = Pending::rectified(&sum.make(), rectifier);
            let options = Options { rectifier: Rectifier::Identity, statistics: true };
            let (expected, stats) = conv2d_pending(&made, &w, None, &geo, false, options).unwrap();
            let (y, own) = conv2d_sum(&sum, &w, &geo, options).unwrap();
            assert!(reads_sum(&sum, &w, &geo), "{what}");
            assert_eq!(y.as_slice(), expected.as_slice(), "{what}");
            let [stats, own] = [stats, own].map(|stats| stats.map(|s| [s.mean.to_vec(), s.var.to_vec()]).unwrap());
            assert_eq!(own, stats, "{what}");

            let dz = PendingGrad::plain(randn(*y.shape(), 70));
            let want = Want { x: true, w: true, b: false };
            let expected = conv2d_pending_backward(&made, &w, &dz, &geo, false, want).unwrap();
            let got = conv2d_sum_backward(&sum, &w, &dz, &geo, [true; 2]).unwrap();
            assert_eq!(got.dw.unwrap().as_slice(), expected.dw.unwrap().as_slice(), "{what}");
            let (dy, (of_maps, sums)) = (expected.dx.unwrap().dy, got.dx.unwrap());
            assert_eq!(of_maps.as_slice(), dy.as_slice(), "{what}");
            assert_eq!(sums.len(), count, "{what}");
            for (map, got) in maps.iter().zip(sums) {
                let expected = MaskedGrad::of(map, dy.clone()).unwrap();
                for (got, expected) in got.iter().zip(&expected.sums) {
                    assert_eq!(got.len(), expected.len(), "{what}");
                    let close = |(a, b): (&f64, &f64)| (a - b).abs() <= 1e-10 * b.abs().max(1.0);
                    assert!(got.iter().zip(expected).all(close), "{what}: {got:?} {expected:?}");
                }
            }
            let none = PendingSum::new(branches::<f64>([0, shape[1], shape[2], shape[3]]), rectifier).unwrap();
            let (y, _) = conv2d_sum(&none, &w, &geo, Options::default()).unwrap();
            let of_none = conv2d_sum_backward(&none, &w, &PendingGrad::plain(y), &geo, [true; 2]).unwrap();
            assert!(of_none.dw.unwrap().as_slice().iter().all(|&dw| dw == 0.0), "{what}: an empty batch");
            let frozen = conv2d_sum_backward(&sum, &w, &dz, &geo, [false, true]).unwrap();
            assert!(frozen.dx.is_none() && frozen.dw.is_some(), "{what}");
        }
    }
}

#[test]
fn a_sum_is_read_by_depthwise_convolutions_of_linear_branches_alone() {
    let (shape, geo) = ([2, 4, 5, 6], Geometry::default().padding(1));
    let sum = |maps: Vec<Pending<f32>>| PendingSum::new(maps, Rectifier::Relu).unwrap();
    let (dense, depthwise) = (randn([4, 4, 3, 3], 1), randn([4, 1, 3, 3], 2));
    let linear = sum(branches(shape));
    assert!(!reads_sum(&linear, &dense, &geo));
    assert!(message(conv2d_sum(&linear, &dense, &geo, Options::default())).contains("only a depthwise convolution"));
    let rectified = sum(vec![Pending::rectified(&randn(shape, 3), Rectifier::Relu)]);
    assert!(!reads_sum(&rectified, &depthwise, &geo.groups(4)));
    let dy = PendingGrad::plain(randn(shape, 4));
    let refused = conv2d_sum_backward(&rectified, &depthwise, &dy, &geo.groups(4), [true; 2]);
    assert!(message(refused).contains("a rectifier of its own"));
}

#[test]
fn a_sum_has_the_same_bits_with_any_number_of_threads() {
    let (shape, geo) = ([19, 24, 9, 8], Geometry::default().padding(1).stride(2).groups(24));
    assert_same_bits("a sum", || {
        let (sum, w) = (PendingSum::new(branches(shape), Rectifier::Relu).unwrap(), randn([24, 1, 3, 3], 60));
        let (y, _) = conv2d_sum(&sum, &w, &geo, Options::default()).unwrap();
        let dz = PendingGrad::plain(randn(*y.shape(), 70));
        let SumConvGrads { dx, dw } = conv2d_sum_backward(&sum, &w, &dz, &geo, [true; 2]).unwrap();
        let (dy, sums) = dx.unwrap();
        let sums: Vec<f32> = sums.iter().flatten().flatten().map(|&sum| sum as f32).collect();
        vec![dy, Tensor::from_memory([sums.len()], sums).unwrap(), y, dw.unwrap()]
    });
}

//! Composed kernels against the definition, and against the branches they stand for.

use super::*;
use crate::kernels::conv::{Geometry, conv2d, conv2d_per_sample};
use crate::kernels::testing::{assert_close, assert_same_bits, message};
use crate::random::randn;
use crate::reference::compose as reference;

/// `[N, O, m, groups]` and `[I, kh, kw]`.
const CASES: [([usize; 4], [usize; 3]); 8] = [
    ([1, 1, 1, 1], [1, 1, 1]),
    ([2, 6, 5, 1], [4, 1, 1]),
    ([3, 4, 20, 1], [3, 3, 3]),
    ([2, 6, 4, 2], [3, 3, 1]),
    ([3, 6, 9, 3], [1, 5, 2]),
    ([2, 4, 4, 4], [1, 3, 3]),
    ([40, 8, 6, 2], [4, 1, 1]),
    ([2, 300, 20, 1], [16, 3, 3]),
];

struct Factors<T: Real> {
    base: Tensor<T>,
    w2: Tensor<T>,
    a: Tensor<T>,
    w1: Tensor<T>,
}

fn factors<T: Real>([n, o, m, groups]: [usize; 4], [i, kh, kw]: [usize; 3]) -> Factors<T> {
    Factors {
        base: randn::<f64>([o, i, kh, kw], 1).cast(),
        w2: randn::<f64>([o, m / groups, 1, 1], 2).cast(),
        a: randn::<f64>([n, m], 3).cast(),
        w1: randn::<f64>([m, i, kh, kw], 4).cast(),
    }
}

fn check<T: Real>(sizes: [usize; 4], kernel: [usize; 3], tolerance: f64) {
    let (f, groups) = (factors::<T>(sizes, kernel), sizes[3]);
    for (a, base) in [(Some(&f.a), Some(&f.base)), (Some(&f.a), None), (None, Some(&f.base)), (None, None)] {
        let what = format!("{sizes:?} {kernel:?} {}, gates {}", T::DTYPE, a.is_some());
        let w = compose_kernels(base, &f.w2, a, &f.w1, groups).unwrap();
        let expected = reference::compose_kernels(base, &f.w2, a, &f.w1, groups).unwrap();
        assert_close(&what, &w, &expected, tolerance);
        let dw = randn::<f64>(w.shape(), 5).cast();
        let got = compose_kernels_backward(&f.w2, a, &f.w1, groups, &dw, ComposeWant::ALL).unwrap();
        let expected = reference::compose_kernels_backward(&f.w2, a, &f.w1, groups, &dw).unwrap();
        assert_eq!(got.da.is_some(), a.is_some(), "{what}");
        let (all, definition) =
            ([got.dbase, got.dw2, got.da, got.dw1], [expected.dbase, expected.dw2, expected.da, expected.dw1]);
        for ((name, got), expected) in ["dbase", "dw2", "da", "dw1"].iter().zip(all).zip(definition) {
            if let (Some(got), Some(expected)) = (got, expected) {
                assert_close(&format!("{what}, {name}"), &got, &expected, tolerance);
            }
        }
    }
}

#[test]
fn composed_kernels_and_their_gradients_equal_the_definition() {
    for (sizes, kernel) in CASES {
        check::<f64>(sizes, kernel, 1e-12);
        check::<f32>(sizes, kernel, 1e-5);
    }
}

/// The identity the compact form rests on: W_b * x + W_2 * (A (W_1 * x)) = (W_b + W_2·A·W_1) * x, padding included.
#[test]
fn the_composed_kernel_convolves_as_the_branches_together() {
    for (sizes @ [n, _, m, groups], kernel @ [i, kh, kw]) in CASES {
        let f = factors::<f64>(sizes, kernel);
        let x = randn([n, i * groups, 6, 7], 6);
        let site = Geometry { padding: [kh / 2, kw / 2], ..Geometry::default() }.groups(groups).stride(2);
        let t = conv2d(&x, &f.w1, None, &site).unwrap();
        let gated = Tensor::from_fn(t.shape(), |at| f.a.view()[[at[0], at[1]]] * t.view()[at]);
        assert_eq!(t.shape()[1], m);
        let mut expected = conv2d(&x, &f.base, None, &site).unwrap();
        let branch = conv2d(&gated, &f.w2, None, &Geometry::default().groups(groups)).unwrap();
        expected.zip_apply(&branch, |y, branch| *y += branch).unwrap();
        let w = compose_kernels(Some(&f.base), &f.w2, Some(&f.a), &f.w1, groups).unwrap();
        let y = conv2d_per_sample(&x, &w, None, &site).unwrap();
        assert_close(&format!("{sizes:?} {kernel:?}"), &y, &expected, 1e-12);
    }
}

#[test]
fn the_bits_do_not_depend_on_the_number_of_threads() {
    for (sizes, kernel) in CASES {
        let f = factors::<f32>(sizes, kernel);
        assert_same_bits("compose", || {
            let w = compose_kernels(Some(&f.base), &f.w2, Some(&f.a), &f.w1, sizes[3]).unwrap();
            let want = ComposeWant::ALL;
            let g = compose_kernels_backward(&f.w2, Some(&f.a), &f.w1, sizes[3], &w, want).unwrap();
            [Some(w), g.dbase, g.dw2, g.da, g.dw1].into_iter().flatten().collect()
        });
    }
}

#[test]
fn only_what_is_wanted_comes_back_and_does_not_depend_on_the_rest() {
    let f = factors::<f64>([3, 4, 6, 2], [2, 3, 3]);
    let dw = randn([12, 2, 3, 3], 5);
    let grads = |want| {
        let g = compose_kernels_backward(&f.w2, Some(&f.a), &f.w1, 2, &dw, want).unwrap();
        [g.dbase, g.dw2, g.da, g.dw1]
    };
    let all = grads(ComposeWant::ALL);
    for one in 0..4 {
        let is = |i| i == one;
        let some = grads(ComposeWant { base: is(0), w2: is(1), a: is(2), w1: is(3) });
        for (i, (some, all)) in some.into_iter().zip(&all).enumerate() {
            assert_eq!(some, all.clone().filter(|_| is(i)));
        }
    }
}

#[test]
fn wrong_shapes_are_errors_that_name_the_argument() {
    let zeros = |shape: &[usize]| Tensor::<f32>::zeros(shape);
    let compose = |base: &[usize], w2: &[usize], a: &[usize], w1: &[usize], groups| {
        message(compose_kernels(Some(&zeros(base)), &zeros(w2), Some(&zeros(a)), &zeros(w1), groups))
    };
    let (base, w2, a, w1) = (&[4, 3, 1, 1], &[4, 6, 1, 1], &[2, 6], &[6, 3, 1, 1]);
    for (got, expected) in [
        (compose(&[4, 3, 3, 1], w2, a, w1, 1), "`base` has shape [4, 3, 3, 1], expected [4, 3, 1, 1]"),
        (compose(base, &[4, 5, 1, 1], a, w1, 1), "`w2` has shape [4, 5, 1, 1], expected [O, 6, 1, 1]"),
        (compose(base, &[4, 6, 3, 1], a, w1, 1), "`w2` has shape [4, 6, 3, 1]"),
        (compose(base, w2, &[2, 5], w1, 1), "`a` has shape [2, 5], expected [N, 6]"),
        (compose(base, w2, &[6], w1, 1), "`a` has shape [6], expected rank 2"),
        (compose(base, w2, a, &[6, 3], 1), "`w1` has shape [6, 3], expected rank 4"),
        (compose(base, w2, a, &[6, 0, 1, 1], 1), "`w1` has shape [6, 0, 1, 1]"),
        (compose(base, w2, a, w1, 0), "0 groups do not divide"),
        (compose(base, w2, a, w1, 4), "4 groups do not divide 4 output channels and 6 intermediate channels"),
    ] {
        assert!(got.contains(expected), "{got:?} does not say {expected:?}");
    }
    let want = ComposeWant::ALL;
    let dw = message(compose_kernels_backward(&zeros(w2), Some(&zeros(a)), &zeros(w1), 1, &zeros(base), want));
    assert_eq!(dw, "compose_kernels_backward: `dw` has shape [4, 3, 1, 1], expected [8, 3, 1, 1]");
}

#[test]
fn an_empty_batch_composes_nothing() {
    let f = factors::<f32>([0, 4, 6, 2], [2, 3, 3]);
    let w = compose_kernels(Some(&f.base), &f.w2, Some(&f.a), &f.w1, 2).unwrap();
    assert_eq!(w.shape()[..], [0, 2, 3, 3]);
    let grads = compose_kernels_backward(&f.w2, Some(&f.a), &f.w1, 2, &w, ComposeWant::ALL).unwrap();
    assert_eq!(grads.dw1.unwrap(), Tensor::zeros([6, 2, 3, 3]));
    assert_eq!(grads.da.unwrap().shape()[..], [0, 6]);
}

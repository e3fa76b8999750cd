//! The kernels with every vector, also where others take less time, against the definition.

use super::grad::from_panel;
use super::*;
use crate::kernels::conv::BackwardTask;
use crate::kernels::pending::{GradLoader, Loader, PendingGrad};
use crate::kernels::testing::assert_close;
use crate::random::randn;
use crate::reference::conv as reference;
use crate::simd::{Portable, dispatch};
use crate::{Real, Tensor};

/// A convolution of `x [N,C,H,W]` to O channels, forward and backward.
#[derive(Clone, Copy)]
struct Check {
    x: [usize; 4],
    o: usize,
    padding: [usize; 2],
    tolerance: f64,
}

impl<T: Real> Kernel<T> for Check {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector<T>>(self) {
        let Check { x: [n, c, h, w], o, padding, tolerance } = self;
        let geo = Geometry { padding, ..Geometry::default() };
        let name = |what: &str| format!("{what} of {:?} to {o}, {} lanes of {}", self.x, V::LANES, T::DTYPE);
        let (x, weight) = (randn::<f64>([n, c, h, w], 1).cast::<T>(), randn::<f64>([o, c, 3, 3], 2).cast::<T>());
        let b = randn::<f64>([o], 3).cast::<T>();
        let s = &Sizes::check("conv2d", &x, &weight, &geo, false).unwrap();
        assert!(fits(s));
        let expected = reference::conv2d(&x, &weight, Some(&b), &geo).unwrap();

        let mut bias = Aligned::zeros(panel_row(o));
        bias[..o].copy_from_slice(b.as_slice());
        let (loader, mut panel) = (&Loader::plain(x.as_slice(), c), Aligned::default());
        fill_forward_panel(s, weight.as_slice(), &mut panel);
        let mut y = Tensor::<T>::zeros(s.y_shape());
        // In two tasks, the second one in the middle of an image.
        let all = n * s.oh;
        let first = all / 4 * 2;
        let (of_first, of_second) = y.as_mut_slice().split_at_mut(first * s.ow * o);
        let mut moments = Vec::new();
        for (rows, y) in [(0..first, of_first), (first..all, of_second)] {
            let rectifier = Rectifier::Identity;
            let task =
                ForwardTask { s, x: loader, w: &panel, bias: Some(&bias), rectifier, rows, y, with_moments: true };
            moments.push(Forward(task).run::<V>().finish());
        }
        assert_close(&name("y"), &y, &expected, tolerance);
        let counts: f64 = moments.iter().map(|moments| moments.count).sum();
        assert_eq!(counts, (all * s.ow) as f64);

        let dy = randn::<f64>(s.y_shape(), 4).cast::<T>();
        let expected = reference::conv2d_backward(&x, &weight, &dy, &geo).unwrap();
        let mut turned = Aligned::default();
        fill_turned_panel(s, weight.as_slice(), &mut turned);
        let (gradient, mut dx) = (PendingGrad::plain(dy), Tensor::<T>::zeros([n, c, h, w]));
        let gradient: &GradLoader<'_, T> = &gradient.loader();
        let (mut frequencies, mut dw) = (Aligned::zeros(panel_len(c, o)), Tensor::<T>::zeros([o, c, 3, 3]));
        let (into_x, into_w) = (Some(dx.as_mut_slice()), Some(&mut frequencies[..]));
        let task = BackwardTask { s, x: loader, dy: gradient, w: &turned, images: 0..n, dx: into_x, dw: into_w };
        Backward(task).run::<V>();
        from_panel(s, &frequencies, dw.as_mut_slice());
        assert_close(&name("dx"), &dx, &expected.dx.unwrap(), tolerance);
        assert_close(&name("dw"), &dw, &expected.dw.unwrap(), tolerance);
    }
}

#[test]
fn tiles_of_every_shape_equal_the_definition() {
    let shapes = [
        ([2, 3, 6, 16], 16, [1, 1]),  // the channels that a loop knows
        ([1, 1, 2, 2], 1, [1, 1]),    // a tile
        ([3, 2, 4, 10], 5, [1, 1]),   // five tiles a row
        ([2, 4, 8, 6], 17, [1, 1]),   // a lane behind a vector, a channel behind three
        ([2, 5, 4, 14], 40, [0, 0]),  // no padding
        ([2, 7, 2, 8], 3, [2, 2]),    // all that there may be
        ([2, 16, 4, 12], 9, [2, 0]),  // unequal
        ([1, 20, 6, 36], 33, [0, 2]), // more than a vector of both
    ];
    for (x, o, padding) in shapes {
        dispatch::<f64, _>(Check { x, o, padding, tolerance: 1e-12 });
        dispatch::<f32, _>(Check { x, o, padding, tolerance: 1e-5 });
        Kernel::<f64>::run::<Portable<f64>>(Check { x, o, padding, tolerance: 1e-12 });
        Kernel::<f32>::run::<Portable<f32>>(Check { x, o, padding, tolerance: 1e-5 });
    }
}

#[test]
fn frequencies_of_a_kernel_are_those_of_its_taps() {
    // A single tap: its frequencies are the product of a column of G and a row of Gᵀ.
    let s = Sizes::check(
        "conv2d",
        &Tensor::<f64>::zeros([1, 1, 4, 4]),
        &Tensor::zeros([1, 1, 3, 3]),
        &Geometry::default(),
        false,
    )
    .unwrap();
    let g = [[1.0, 0.0, 0.0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0.0, 0.0, -1.0]];
    for (u, v) in (0..3).flat_map(|u| (0..3).map(move |v| (u, v))) {
        let mut w = [0.0; 9];
        w[3 * u + v] = 1.0;
        let (mut panel, mut turned) = (Aligned::default(), Aligned::default());
        fill_forward_panel(&s, &w, &mut panel);
        w.reverse();
        fill_turned_panel(&s, &w, &mut turned);
        for (xi, nu) in (0..4).flat_map(|xi| (0..4).map(move |nu| (xi, nu))) {
            let at = (xi * 4 + nu) * panel_row(1);
            assert_eq!([panel[at], turned[at]], [g[xi][u] * g[nu][v]; 2], "tap {u}, {v} at {xi}, {nu}");
        }
    }
}

//! Pooling of `x [N,C,H,W]`, (pool.1), (pool.3) and (pool.5) of [`kernels::pool`](crate::kernels::pool), and the gradients
//! (pool.4) and (pool.6).
//!
//! Every function panics on shapes that do not fit.

use crate::kernels::pool::Window;
use crate::{Real, Tensor};

/// The mean of each map, (pool.1): → `[N,C]`.
///
/// # Panics
/// If the rank is not 4.
pub fn global_avg_pool<T: Real>(x: &Tensor<T>) -> Tensor<T> {
    let [n, c, h, w] = x.shape()[..] else { panic!("x has shape {:?}, not [N, C, H, W]", x.shape()) };
    Tensor::from_fn([n, c], |at| {
        let places = (0..h).flat_map(|h| (0..w).map(move |l| (h, l)));
        places.map(|(h, l)| x.view()[[at[0], at[1], h, l]]).sum::<T>() / T::of((h * w) as f64)
    })
}

/// The positions of window `(i, j)` that lie inside a map of `h × w`, in reading order.
fn places([i, j]: [usize; 2], [h, w]: [usize; 2], window: &Window) -> Vec<[usize; 2]> {
    let mut places = Vec::new();
    for u in 0..window.kernel[0] {
        for v in 0..window.kernel[1] {
            let row = (i * window.stride[0] + u).checked_sub(window.padding[0]);
            let column = (j * window.stride[1] + v).checked_sub(window.padding[1]);
            match (row, column) {
                (Some(row), Some(column)) if row < h && column < w => places.push([row, column]),
                _ => {}
            }
        }
    }
    places
}

fn extents(shape: &[usize], window: &Window) -> ([usize; 4], [usize; 2]) {
    let [n, c, h, w] = *shape else { panic!("x has shape {shape:?}, not [N, C, H, W]") };
    let windows =
        |axis: usize| (shape[2 + axis] + 2 * window.padding[axis] - window.kernel[axis]) / window.stride[axis] + 1;
    ([n, c, windows(0), windows(1)], [h, w])
}

/// The maximum of each window, (pool.3).
///
/// # Panics
/// If the shapes do not fit.
pub fn max_pool2d<T: Real>(x: &Tensor<T>, window: &Window) -> Tensor<T> {
    let (shape, map) = extents(x.shape(), window);
    Tensor::from_fn(shape, |at| {
        let values = places([at[2], at[3]], map, window).into_iter().map(|[h, l]| x.view()[[at[0], at[1], h, l]]);
        values.fold(T::neg_infinity(), T::max)
    })
}

/// `dx` of (pool.4).
///
/// # Panics
/// If the shapes do not fit.
pub fn max_pool2d_backward<T: Real>(x: &Tensor<T>, window: &Window, dy: &Tensor<T>) -> Tensor<T> {
    let y = max_pool2d(x, window);
    spread(x.shape(), window, dy, |[n, c, i, j], places| {
        let first = places.iter().copied().find(|&[h, l]| x.view()[[n, c, h, l]] == y.view()[[n, c, i, j]]);
        first.map(|place| (place, dy.view()[[n, c, i, j]])).into_iter().collect()
    })
}

/// The mean of each window, (pool.5).
///
/// # Panics
/// If the shapes do not fit.
pub fn avg_pool2d<T: Real>(x: &Tensor<T>, window: &Window) -> Tensor<T> {
    let (shape, map) = extents(x.shape(), window);
    let area = T::of((window.kernel[0] * window.kernel[1]) as f64);
    Tensor::from_fn(shape, |at| {
        let values = places([at[2], at[3]], map, window).into_iter().map(|[h, l]| x.view()[[at[0], at[1], h, l]]);
        values.sum::<T>() / area
    })
}

/// `dx` of (pool.6).
///
/// # Panics
/// If the shapes do not fit.
pub fn avg_pool2d_backward<T: Real>(shape: &[usize], window: &Window, dy: &Tensor<T>) -> Tensor<T> {
    let area = T::of((window.kernel[0] * window.kernel[1]) as f64);
    spread(shape, window, dy, |[n, c, i, j], places| {
        places.into_iter().map(|place| (place, dy.view()[[n, c, i, j]] / area)).collect()
    })
}

/// Adds to `dx`, for every window, what `shares` makes of its places.
fn spread<T: Real>(
    shape: &[usize],
    window: &Window,
    dy: &Tensor<T>,
    shares: impl Fn([usize; 4], Vec<[usize; 2]>) -> Vec<([usize; 2], T)>,
) -> Tensor<T> {
    let ([n, c, oh, ow], map) = extents(shape, window);
    assert_eq!(dy.shape()[..], [n, c, oh, ow], "dy does not fit");
    let mut dx = vec![T::zero(); shape.iter().product()];
    for n in 0..n {
        for channel in 0..c {
            for i in 0..oh {
                for j in 0..ow {
                    for ([h, l], share) in shares([n, channel, i, j], places([i, j], map, window)) {
                        dx[((n * c + channel) * map[0] + h) * map[1] + l] += share;
                    }
                }
            }
        }
    }
    Tensor::from_vec(shape, dx).expect("as many elements as the shape has")
}

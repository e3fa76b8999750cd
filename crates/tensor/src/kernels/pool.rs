//! Pooling: the mean of a whole map, and the largest value or the mean of each window. Windows have kernel k, stride s
//! and padding p; padded places hold nothing for the maximum and zeros, which count, for the mean.
//! ```text
//! y[n,c]      = 1/(HW) Σ_{h,l} x[n,c,h,l]                                         (pool.1)
//! dx[n,c,h,l] = dy[n,c]/(HW)                                                      (pool.2)
//! y[n,c,i,j]  = max_{u,v} x[n,c, i·s+u−p, j·s+v−p]                                (pool.3)
//! dx[n,c,h,l] = Σ dy[n,c,i,j] over the windows whose maximum was found at (h, l)  (pool.4)
//! y[n,c,i,j]  = 1/k² Σ_{u,v} x[n,c, i·s+u−p, j·s+v−p]                             (pool.5)
//! dx[n,c,h,l] = 1/k² Σ dy[n,c,i,j] over the windows that contain (h, l)           (pool.6)
//! ```
//! [`global_avg_pool`] reads pending maps, and stands with the others that do.
//!
//! Of equal values the first in reading order is the maximum, and a NaN is larger than any number, as in PyTorch.

#[cfg(test)]
mod tests;

use std::ops::Range;

use rayon::prelude::*;

pub use super::pending::{global_avg_pool, global_avg_pool_backward};
use super::rows::for_each_chunk;
use crate::{Error, Real, Result, Shape, Tensor};

/// The windows of a pooling: height, then width.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Extents of a window.
    pub kernel: [usize; 2],
    /// Steps from a window to the next.
    pub stride: [usize; 2],
    /// Rows and columns added on every side, at most half the kernel.
    pub padding: [usize; 2],
}

impl Window {
    /// `k × k` windows side by side: stride k, no padding.
    #[must_use]
    pub fn square(k: usize) -> Self {
        Window { kernel: [k; 2], stride: [k; 2], padding: [0; 2] }
    }

    /// The same with another stride.
    #[must_use]
    pub fn stride(self, s: usize) -> Self {
        Window { stride: [s; 2], ..self }
    }

    /// The same with padding on every side.
    #[must_use]
    pub fn padding(self, p: usize) -> Self {
        Window { padding: [p; 2], ..self }
    }

    /// The extents `[OH, OW]` of the result of a map of `[H, W]`.
    ///
    /// # Errors
    /// As [`max_pool2d`].
    pub fn output(&self, [h, w]: [usize; 2]) -> Result<[usize; 2]> {
        let s = Sizes::check("pool", &[1, 1, h, w], self)?;
        Ok([s.oh, s.ow])
    }
}

/// N, C and H·W.
fn map_sizes(op: &'static str, shape: &[usize]) -> Result<[usize; 3]> {
    match *shape {
        [n, c, h, w] if h > 0 && w > 0 => Ok([n, c, h * w]),
        _ => Err(Error::shape(op, "x", "[N, C, H, W] with H ≥ 1 and W ≥ 1", shape)),
    }
}

/// The maximum of each window, (pool.3), and where it was found: `h·W + l`, in the memory order of the result.
///
/// # Shapes
/// `x [N,C,H,W]` → `[N,C,OH,OW]`, `OH = ⌊(H + 2p − k)/s⌋ + 1`.
///
/// # Errors
/// [`Error::Shape`] if the rank is not 4 or a map has no positions; [`Error::Invalid`] if the kernel or stride is 0,
/// the padding more than half the kernel, the kernel larger than the padded map, or the map beyond 2³² positions.
pub fn max_pool2d<T: Real>(x: &Tensor<T>, window: &Window) -> Result<(Tensor<T>, Vec<u32>)> {
    let s = Sizes::check("max_pool2d", x.shape(), window)?;
    let mut y = Tensor::zeros(s.y_shape());
    let mut found = vec![0; y.len()];
    s.for_each_row(y.as_mut_slice(), &mut found, |row, y, found| {
        let (x, rows) = (s.sample(x.as_slice(), row / s.oh), s.rows(row % s.oh));
        for (j, (y, found)) in y.chunks_exact_mut(s.c).zip(found.chunks_exact_mut(s.c)).enumerate() {
            y.fill(T::neg_infinity());
            found.fill((rows.start * s.w + s.columns(j).start) as u32); // where −∞ is found if there is nothing else
            for place in s.places(&rows, &s.columns(j)) {
                take_larger(&x[place * s.c..][..s.c], place as u32, y, found);
            }
        }
    });
    Ok((y, found))
}

/// (pool.3) for the images in `x`, `[C, H, W]` each and channels last, on the calling thread.
///
/// # Panics
/// If the window does not fit a map: [`Window::output`] has said so before.
pub(crate) fn max_pool_images<T: Real>(x: &[T], [c, h, w]: [usize; 3], window: &Window, y: &mut [T]) {
    let s = Sizes::check("max_pool2d", &[1, c, h, w], window).expect("the window fits");
    for (x, y) in x.chunks_exact(h * w * c).zip(y.chunks_exact_mut(s.oh * s.ow * c)) {
        for (at, y) in y.chunks_exact_mut(c).enumerate() {
            y.fill(T::neg_infinity());
            for place in s.places(&s.rows(at / s.ow), &s.columns(at % s.ow)) {
                let x = &x[place * c..][..c];
                y.iter_mut().zip(x).for_each(|(y, &x)| *y = if (x > *y) | x.is_nan() { x } else { *y });
            }
        }
    }
}

/// The innermost loop, over the channels: `y` and where it was found give way to `x` at `place` where that is larger.
/// Both are always written: a conditional store would keep the compiler from making vectors of the loop.
fn take_larger<T: Real>(x: &[T], place: u32, y: &mut [T], found: &mut [u32]) {
    for ((y, found), &x) in y.iter_mut().zip(found).zip(x) {
        (*y, *found) = if (x > *y) | x.is_nan() { (x, place) } else { (*y, *found) };
    }
}

/// The gradient of [`max_pool2d`]'s input, (pool.4), from the places found there.
///
/// # Shapes
/// `shape` is that of the input, `found` and `dy` as [`max_pool2d`]'s results → `dx` of `shape`.
///
/// # Errors
/// [`Error::Shape`] if the shapes disagree, [`Error::Invalid`] if a place lies outside the map.
pub fn max_pool2d_backward<T: Real>(shape: &[usize], found: &[u32], dy: &Tensor<T>) -> Result<Tensor<T>> {
    const OP: &str = "max_pool2d_backward";
    let [n, c, positions] = map_sizes(OP, shape)?;
    let [dy_n, dy_c, ..] = dy.dims::<4>(OP, "dy")?;
    if [dy_n, dy_c] != [n, c] {
        return Err(Error::shape(OP, "dy", format!("[{n}, {c}, OH, OW]"), dy.shape()));
    }
    if found.len() != dy.len() {
        return Err(Error::shape(OP, "found", format!("{} places for dy {:?}", dy.len(), dy.shape()), &[found.len()]));
    }
    if let Some(place) = found.iter().find(|&&place| place as usize >= positions) {
        let message = format!("a maximum was found at place {place}, but a map has {positions} positions");
        return Err(Error::invalid(OP, message));
    }
    let mut dx = Tensor::zeros(shape);
    if dy.is_empty() {
        return Ok(dx);
    }
    let step = dy.len() / n;
    for_each_chunk(dx.as_mut_slice(), positions * c, |start, dx| {
        for (i, dx) in dx.chunks_exact_mut(positions * c).enumerate() {
            let first = (start / (positions * c) + i) * step;
            let dy = dy.as_slice()[first..][..step].chunks_exact(c);
            for (dy, found) in dy.zip(found[first..].chunks_exact(c)) {
                for (channel, (&dy, &place)) in dy.iter().zip(found).enumerate() {
                    dx[place as usize * c + channel] += dy;
                }
            }
        }
    });
    Ok(dx)
}

/// The mean of each window, (pool.5): PyTorch's default, which counts the zeros of the padding.
///
/// # Shapes
/// As [`max_pool2d`].
///
/// # Errors
/// As [`max_pool2d`].
pub fn avg_pool2d<T: Real>(x: &Tensor<T>, window: &Window) -> Result<Tensor<T>> {
    let s = Sizes::check("avg_pool2d", x.shape(), window)?;
    let mut y = Tensor::zeros(s.y_shape());
    for_each_chunk(y.as_mut_slice(), s.ow * s.c, |start, y| {
        for (i, y) in y.chunks_exact_mut(s.ow * s.c).enumerate() {
            let row = start / (s.ow * s.c) + i;
            let (x, rows) = (s.sample(x.as_slice(), row / s.oh), s.rows(row % s.oh));
            for (j, y) in y.chunks_exact_mut(s.c).enumerate() {
                for place in s.places(&rows, &s.columns(j)) {
                    y.iter_mut().zip(&x[place * s.c..]).for_each(|(y, &x)| *y += x);
                }
                y.iter_mut().for_each(|y| *y /= T::of(s.area()));
            }
        }
    });
    Ok(y)
}

/// The gradient of [`avg_pool2d`]'s input, (pool.6).
///
/// # Shapes
/// `shape` is that of the input, `dy` that of the result → `dx` of `shape`.
///
/// # Errors
/// As [`avg_pool2d`], and if `dy` does not fit.
pub fn avg_pool2d_backward<T: Real>(shape: &[usize], window: &Window, dy: &Tensor<T>) -> Result<Tensor<T>> {
    const OP: &str = "avg_pool2d_backward";
    let s = Sizes::check(OP, shape, window)?;
    if *dy.shape() != s.y_shape() {
        return Err(Error::shape(OP, "dy", format!("{:?}", s.y_shape()), dy.shape()));
    }
    let mut dx = Tensor::zeros(shape);
    let sample = s.h * s.w * s.c;
    for_each_chunk(dx.as_mut_slice(), sample, |start, dx| {
        for (i, dx) in dx.chunks_exact_mut(sample).enumerate() {
            let dy = &dy.as_slice()[(start / sample + i) * s.oh * s.ow * s.c..];
            for (window, dy) in dy.chunks_exact(s.c).take(s.oh * s.ow).enumerate() {
                for place in s.places(&s.rows(window / s.ow), &s.columns(window % s.ow)) {
                    let dx = &mut dx[place * s.c..][..s.c];
                    dx.iter_mut().zip(dy).for_each(|(dx, &dy)| *dx += dy / T::of(s.area()));
                }
            }
        }
    });
    Ok(dx)
}

/// So many samples of `len` elements are worth a task of their own.
fn samples_a_task(len: usize) -> usize {
    (1 << 13) / len + 1
}

/// Every extent of a pooling, checked.
struct Sizes {
    n: usize,
    c: usize,
    h: usize,
    w: usize,
    oh: usize,
    ow: usize,
    window: Window,
}

impl Sizes {
    fn check(op: &'static str, shape: &[usize], window: &Window) -> Result<Self> {
        let [n, c, _] = map_sizes(op, shape)?;
        let (h, w) = (shape[2], shape[3]);
        if u32::try_from(h * w).is_err() {
            return Err(Error::invalid(op, format!("a map of {h} x {w} has more than 2³² positions")));
        }
        let windows = |axis: usize, extent: usize| {
            let (kernel, stride, padding) = (window.kernel[axis], window.stride[axis], window.padding[axis]);
            if kernel == 0 || stride == 0 || padding > kernel / 2 {
                let message =
                    "a window needs a kernel and a stride of at least 1 and a padding of at most half the kernel";
                return Err(Error::invalid(op, format!("{message}, not {window:?}")));
            }
            let room = extent.checked_add(2 * padding).and_then(|padded| padded.checked_sub(kernel));
            let room = room.ok_or_else(|| Error::invalid(op, format!("{window:?} does not fit a map of {h} x {w}")))?;
            Ok(room / stride + 1)
        };
        Ok(Sizes { n, c, h, w, oh: windows(0, h)?, ow: windows(1, w)?, window: *window })
    }

    fn y_shape(&self) -> Shape {
        Shape::from([self.n, self.c, self.oh, self.ow])
    }

    /// k².
    fn area(&self) -> f64 {
        self.window.kernel[0] as f64 * self.window.kernel[1] as f64
    }

    fn sample<'a, T>(&self, x: &'a [T], n: usize) -> &'a [T] {
        &x[n * self.h * self.w * self.c..][..self.h * self.w * self.c]
    }

    /// The rows of the map under output row `i`.
    fn rows(&self, i: usize) -> Range<usize> {
        self.inside(0, i, self.h)
    }

    /// The columns of the map under output column `j`.
    fn columns(&self, j: usize) -> Range<usize> {
        self.inside(1, j, self.w)
    }

    fn inside(&self, axis: usize, window: usize, extent: usize) -> Range<usize> {
        let (start, padding) = (window * self.window.stride[axis], self.window.padding[axis]);
        start.saturating_sub(padding)..(start + self.window.kernel[axis] - padding).min(extent)
    }

    /// The positions `h·W + l` of a window, in reading order.
    fn places(&self, rows: &Range<usize>, columns: &Range<usize>) -> impl Iterator<Item = usize> + use<> {
        let (width, columns) = (self.w, columns.clone());
        rows.clone().flat_map(move |h| columns.clone().map(move |l| h * width + l))
    }

    /// Calls `f` with every row of the result and of what lies beside it.
    fn for_each_row<T: Send, U: Send>(
        &self,
        y: &mut [T],
        beside: &mut [U],
        f: impl Fn(usize, &mut [T], &mut [U]) + Send + Sync,
    ) {
        let len = self.ow * self.c;
        if len > 0 {
            let rows = y.par_chunks_exact_mut(len).zip(beside.par_chunks_exact_mut(len)).enumerate();
            rows.with_min_len(samples_a_task(len)).for_each(|(row, (y, beside))| f(row, y, beside));
        }
    }
}

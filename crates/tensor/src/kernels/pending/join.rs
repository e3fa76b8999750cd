//! Ops that read pending maps as they lie in memory: gates (pend.5) and means over positions (pool.1).
//! Block by block: made, worked on and finished in the first cache, so that each is one pass.

#![allow(unsafe_code, reason = "vectors are loaded through raw pointers")]

use std::ops::Range;

use super::{Loader, MaskedGrad, Pending, total};
use crate::aligned::Aligned;
use crate::kernels::ahead::Stretch;
use crate::kernels::moments::Sums;
use crate::kernels::tile::{load, store};
use crate::parallel::{PASS, PIECES, parts_mut, ranges, run_tasks};
use crate::simd::{Kernel, Vector, dispatch};
use crate::{Error, Real, Result, Tensor};

/// Pixels of a block of `c` channels.
pub(super) fn block(c: usize) -> usize {
    ((1 << 11) / c.max(1)).clamp(4, 64)
}

/// g ⊙ a, (pend.5).
///
/// # Shapes
/// `map [N,C,H,W]`, `g [N,C]` → `[N,C,H,W]`.
///
/// # Errors
/// [`Error::Shape`] if they do not fit.
pub fn gate<T: Real>(map: &Pending<T>, g: &Tensor<T>) -> Result<Tensor<T>> {
    let [n, c, positions] = fit("gate", map, "g", g)?;
    let loader = &map.loader();
    let mut y = Tensor::any(map.z.shape());
    let images = if map.z.is_empty() { Vec::new() } else { ranges(n, PIECES) };
    let parts = parts_mut(y.as_mut_slice(), &images, positions * c);
    let work = PASS * map.z.len();
    run_tasks(images.into_iter().zip(parts).collect(), work, |(images, y)| {
        dispatch(Gate { map: loader, g: g.as_slice(), positions, images, y });
    });
    Ok(y)
}

/// dg and, masked and summed up, da, (pend.5).
///
/// # Errors
/// [`Error::Shape`] if the shapes do not fit.
pub fn gate_backward<T: Real>(map: &Pending<T>, g: &Tensor<T>, dy: Tensor<T>) -> Result<(MaskedGrad<T>, Tensor<T>)> {
    const OP: &str = "gate_backward";
    let [n, c, positions] = fit(OP, map, "g", g)?;
    let mut dx = dy;
    if dx.shape() != map.z.shape() {
        return Err(Error::shape(OP, "dy", format!("{:?}", map.z.shape()), dx.shape()));
    }
    let loader = &map.loader();
    let mut dg = Tensor::zeros([n, c]);
    let images = if map.z.is_empty() { Vec::new() } else { ranges(n, PIECES) };
    let parts = parts_mut(dx.as_mut_slice(), &images, positions * c);
    let gates = parts_mut(dg.as_mut_slice(), &images, c);
    let tasks = images.into_iter().zip(parts).zip(gates).collect();
    let sums = run_tasks(tasks, PASS * map.z.len(), |((images, dx), dg)| {
        dispatch(GateBackward { map: loader, g: g.as_slice(), positions, images, dx, dg })
    });
    Ok((MaskedGrad { dy: dx, sums: total(sums, loader) }, dg))
}

/// N, C and H·W.
fn fit<T: Real>(op: &'static str, map: &Pending<T>, arg: &'static str, g: &Tensor<T>) -> Result<[usize; 3]> {
    let [n, c, h, w] = map.z.dims(op, "x")?;
    if g.shape()[..] != [n, c] {
        return Err(Error::shape(op, arg, format!("[{n}, {c}]"), g.shape()));
    }
    Ok([n, c, h * w])
}

/// An image's pixels in blocks: where a block begins in the part, and its pixels.
fn blocks(images: Range<usize>, positions: usize, c: usize) -> impl Iterator<Item = (usize, usize, Range<usize>)> {
    let (first, step) = (images.start * positions, block(c));
    images.flat_map(move |n| {
        let (from, to) = (n * positions, (n + 1) * positions);
        (from..to).step_by(step).map(move |at| (n, (at - first) * c, at..(at + step).min(to)))
    })
}

struct Gate<'a, T> {
    map: &'a Loader<'a, T>,
    g: &'a [T],
    positions: usize,
    images: Range<usize>,
    y: &'a mut [T],
}

impl<T: Real> Kernel<T> for Gate<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector<T>>(self) {
        let Gate { map, g, positions, images, y } = self;
        let c = map.c;
        for (n, at, pixels) in blocks(images, positions, c) {
            let y = &mut y[at..][..pixels.len() * c];
            Stretch::after(y).ask_to_write::<V>();
            map.load_asking::<V>(pixels.start, pixels.len(), y);
            scale::<T, V>(y, &g[n * c..][..c]);
        }
    }
}

/// Every row of `y` times `g`.
#[inline(always)]
fn scale<T: Real, V: Vector<T>>(y: &mut [T], g: &[T]) {
    let c = g.len();
    for at in (0..c).step_by(V::LANES) {
        let n = V::LANES.min(c - at);
        // SAFETY: `at + n ≤ C`, and `y` is rows of C.
        unsafe {
            let g = load::<T, V>(g.as_ptr().add(at), n);
            for row in 0..y.len() / c {
                let y = y.as_mut_ptr().add(row * c + at);
                store::<T, V>(load::<T, V>(y, n).mul(g), y, n);
            }
        }
    }
}

struct GateBackward<'a, T> {
    map: &'a Loader<'a, T>,
    g: &'a [T],
    positions: usize,
    images: Range<usize>,
    dx: &'a mut [T],
    dg: &'a mut [T],
}

impl<T: Real> Kernel<T> for GateBackward<'_, T> {
    type Output = Sums;

    // ANCHOR: gate_backward
    #[inline(always)]
    fn run<V: Vector<T>>(self) -> Sums {
        let GateBackward { map, g, positions, images, dx, dg } = self;
        let c = map.c;
        let (mut sums, first) = (Sums::zeros(c), images.start);
        let mut made = Aligned::zeros(block(c) * c);
        // A block's sum in `T`, an image's in f64.
        let (mut image, mut of_image) = (first, Sums::zeros(c));
        for (n, at, pixels) in blocks(images, positions, c) {
            if n != image {
                flush(&mut of_image, &mut dg[(image - first) * c..][..c]);
                image = n;
            }
            let dx = &mut dx[at..][..pixels.len() * c];
            map.load_asking::<V>(pixels.start, pixels.len(), &mut made);
            products::<T, V>(dx, &made, c, &mut of_image);
            scale::<T, V>(dx, &g[n * c..][..c]);
            map.finish::<V>(pixels.start, dx, &mut sums);
        }
        flush(&mut of_image, &mut dg[(image - first) * c..][..c]);
        sums
    }
    // ANCHOR_END: gate_backward
}

/// Writes down the sums of an image, and begins anew.
fn flush<T: Real>(of_image: &mut Sums, dg: &mut [T]) {
    for (dg, sum) in dg.iter_mut().zip(&mut of_image.first) {
        *dg = T::of(std::mem::take(sum));
    }
}

/// Adds Σ dy ⊙ a over the rows of a block to the first sums.
#[inline(always)]
fn products<T: Real, V: Vector<T>>(dy: &[T], a: &[T], c: usize, sums: &mut Sums) {
    assert!(a.len() >= dy.len());
    for at in (0..c).step_by(V::LANES) {
        let n = V::LANES.min(c - at);
        let zero = V::splat(T::zero());
        let mut sum = [zero; 2];
        for row in 0..dy.len() / c {
            // SAFETY: `at + n ≤ C`, and both are rows of C.
            unsafe {
                let dy = load::<T, V>(dy.as_ptr().add(row * c + at), n);
                sum[row % 2] = dy.mul_add(load::<T, V>(a.as_ptr().add(row * c + at), n), sum[row % 2]);
            }
        }
        sums.add_lanes(at, n, sum[0].add(sum[1]), zero);
    }
}

/// The mean of each map, (pool.1).
///
/// # Shapes
/// `[N,C,H,W]` → `[N,C]`.
///
/// # Errors
/// [`Error::Shape`] if the rank is not 4, [`Error::Invalid`] if a map has no positions.
pub fn global_avg_pool<T: Real>(map: &Pending<T>) -> Result<Tensor<T>> {
    const OP: &str = "global_avg_pool";
    let [n, c, h, w] = map.z.dims(OP, "x")?;
    let positions = h * w;
    if positions == 0 {
        return Err(Error::invalid(OP, format!("x {:?} has no positions", map.z.shape())));
    }
    let loader = &map.loader();
    let mut y = Tensor::zeros([n, c]);
    let images = if map.z.is_empty() { Vec::new() } else { ranges(n, PIECES) };
    let parts = parts_mut(y.as_mut_slice(), &images, c);
    run_tasks(images.into_iter().zip(parts).collect(), PASS * map.z.len(), |(images, y)| {
        dispatch(Mean { map: loader, positions, images, y });
    });
    Ok(y)
}

struct Mean<'a, T> {
    map: &'a Loader<'a, T>,
    positions: usize,
    images: Range<usize>,
    y: &'a mut [T],
}

impl<T: Real> Kernel<T> for Mean<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector<T>>(self) {
        let Mean { map, positions, images, y } = self;
        let c = map.c;
        let per_position = 1.0 / positions as f64;
        let (mut made, mut ones) = (Aligned::zeros(block(c) * c), Aligned::zeros(block(c) * c));
        ones.fill(T::one());
        for (n, y) in images.zip(y.chunks_exact_mut(c.max(1))) {
            let mut sums = Sums::zeros(c);
            for (.., pixels) in blocks(n..n + 1, positions, c) {
                map.load_asking::<V>(pixels.start, pixels.len(), &mut made);
                products::<T, V>(&made[..pixels.len() * c], &ones, c, &mut sums);
            }
            y.iter_mut().zip(&sums.first).for_each(|(y, sum)| *y = T::of(sum * per_position));
        }
    }
}

/// The gradient of [`global_avg_pool`]'s map, (pool.2), masked and summed up.
///
/// # Errors
/// [`Error::Shape`] if `dy` is not `[N,C]`.
pub fn global_avg_pool_backward<T: Real>(map: &Pending<T>, dy: &Tensor<T>) -> Result<MaskedGrad<T>> {
    let [n, c, positions] = fit("global_avg_pool_backward", map, "dy", dy)?;
    let loader = &map.loader();
    let mut dx = Tensor::any(map.z.shape());
    let images = if map.z.is_empty() { Vec::new() } else { ranges(n, PIECES) };
    let parts = parts_mut(dx.as_mut_slice(), &images, positions * c);
    let sums = run_tasks(images.into_iter().zip(parts).collect(), PASS * map.z.len(), |(images, dx)| {
        dispatch(MeanBackward { map: loader, dy: dy.as_slice(), positions, images, dx })
    });
    Ok(MaskedGrad { dy: dx, sums: total(sums, loader) })
}

struct MeanBackward<'a, T> {
    map: &'a Loader<'a, T>,
    dy: &'a [T],
    positions: usize,
    images: Range<usize>,
    dx: &'a mut [T],
}

impl<T: Real> Kernel<T> for MeanBackward<'_, T> {
    type Output = Sums;

    #[inline(always)]
    fn run<V: Vector<T>>(self) -> Sums {
        let MeanBackward { map, dy, positions, images, dx } = self;
        let c = map.c;
        let per_position = T::of(1.0 / positions.max(1) as f64);
        let mut sums = Sums::zeros(c);
        for (n, at, pixels) in blocks(images, positions, c) {
            let dx = &mut dx[at..][..pixels.len() * c];
            Stretch::after(dx).ask_to_write::<V>();
            for row in dx.chunks_exact_mut(c) {
                row.iter_mut().zip(&dy[n * c..][..c]).for_each(|(dx, &dy)| *dx = dy * per_position);
            }
            map.finish::<V>(pixels.start, dx, &mut sums);
        }
        sums
    }
}

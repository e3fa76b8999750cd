//! Ops that read pending maps as they lie in memory: gates (pend.5) and means over positions (pool.1). A pixel is made, worked on
//! and masked in registers, so that each is one pass.

#![allow(unsafe_code, reason = "vectors are loaded through raw pointers")]

use std::ops::Range;

use super::{Finisher, Loader, Maker, MaskedGrad, Masking, Pending, Rectifier, Strip, total};
use crate::kernels::ahead::Stretch;
use crate::kernels::moments::Sums;
use crate::kernels::tile::{lanes, store_lanes};
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
            map.ahead(pixels.start, pixels.len()).ask_to_read::<V>();
            Stretch::after(y).ask_to_write::<V>();
            map.strips::<V>(pixels.start, pixels.len(), &mut Weigh { g: &g[n * c..][..c], y });
        }
    }
}

/// y = g ⊙ a.
struct Weigh<'a, T> {
    g: &'a [T],
    y: &'a mut [T],
}

impl<T: Real> Strip<T> for Weigh<'_, T> {
    #[inline(always)]
    unsafe fn run<V: Vector<T>, const FULL: bool, const NORM: bool>(
        &mut self,
        of: &Masking<'_, T>,
        c: usize,
        at: usize,
        n: usize,
    ) {
        assert!(self.y.len() == of.z.len() && self.g.len() == c);
        // SAFETY: the caller's promise; `y` has as many pixels.
        unsafe {
            let maker = Maker::<V, NORM>::new::<T, FULL>(of, at, n);
            let g = lanes::<T, V, FULL>(self.g.as_ptr().add(at), n);
            for i in (at..self.y.len()).step_by(c) {
                let a = maker.pixel(lanes::<T, V, FULL>(of.z.as_ptr().add(i), n));
                store_lanes::<T, V, FULL>(a.mul(g), self.y.as_mut_ptr().add(i), n);
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

    #[inline(always)]
    fn run<V: Vector<T>>(self) -> Sums {
        let GateBackward { map, g, positions, images, dx, dg } = self;
        let c = map.c;
        let (mut sums, first) = (Sums::zeros(c), images.start);
        // A block's sum in `T`, an image's in f64.
        let (mut image, mut of_image) = (first, Sums::zeros(c));
        for (n, at, pixels) in blocks(images, positions, c) {
            if n != image {
                flush(&mut of_image, &mut dg[(image - first) * c..][..c]);
                image = n;
            }
            map.ahead(pixels.start, pixels.len()).ask_to_read::<V>();
            let (d, g) = (&mut dx[at..][..pixels.len() * c], &g[n * c..][..c]);
            let mut strip = WeighBackward { g, d, dg: &mut of_image, sums: &mut sums };
            map.strips::<V>(pixels.start, pixels.len(), &mut strip);
        }
        flush(&mut of_image, &mut dg[(image - first) * c..][..c]);
        sums
    }
}

/// Σ_p dy ⊙ a, and da = g ⊙ dy in the place of dy.
struct WeighBackward<'a, T> {
    g: &'a [T],
    d: &'a mut [T],
    /// In its first sums.
    dg: &'a mut Sums,
    sums: &'a mut Sums,
}

impl<T: Real> Strip<T> for WeighBackward<'_, T> {
    #[inline(always)]
    unsafe fn run<V: Vector<T>, const FULL: bool, const NORM: bool>(
        &mut self,
        of: &Masking<'_, T>,
        c: usize,
        at: usize,
        n: usize,
    ) {
        let zero = V::splat(T::zero());
        assert!(self.d.len() == of.z.len() && self.g.len() == c);
        // SAFETY: the caller's promise; `d` has as many pixels.
        unsafe {
            let mut finisher = Finisher::<V, NORM>::new::<T, FULL>(of, at, n);
            let g = lanes::<T, V, FULL>(self.g.as_ptr().add(at), n);
            let mut dg = [zero; 2];
            for pair in (at..self.d.len()).step_by(2 * c) {
                for half in 0..2 {
                    let i = pair + half * c;
                    if i >= self.d.len() {
                        break;
                    }
                    let d = self.d.as_mut_ptr().add(i);
                    let (a, dy) =
                        (finisher.read(lanes::<T, V, FULL>(of.z.as_ptr().add(i), n)), lanes::<T, V, FULL>(d, n));
                    dg[half] = dy.mul_add(a.x, dg[half]);
                    store_lanes::<T, V, FULL>(finisher.finish(a, dy.mul(g), half), d, n);
                }
            }
            self.dg.add_lanes(at, n, dg[0].add(dg[1]), zero);
            finisher.add_to::<T>(self.sums, at, n);
        }
    }
}

/// Writes down the sums of an image, and begins anew.
fn flush<T: Real>(of_image: &mut Sums, dg: &mut [T]) {
    for (dg, sum) in dg.iter_mut().zip(&mut of_image.first) {
        *dg = T::of(std::mem::take(sum));
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
        for (n, y) in images.zip(y.chunks_exact_mut(c.max(1))) {
            let mut sums = Sums::zeros(c);
            for (.., pixels) in blocks(n..n + 1, positions, c) {
                map.ahead(pixels.start, pixels.len()).ask_to_read::<V>();
                map.strips::<V>(pixels.start, pixels.len(), &mut Add(&mut sums));
            }
            y.iter_mut().zip(&sums.first).for_each(|(y, sum)| *y = T::of(sum * per_position));
        }
    }
}

/// Adds a to the first sums.
struct Add<'a>(&'a mut Sums);

impl<T: Real> Strip<T> for Add<'_> {
    #[inline(always)]
    unsafe fn run<V: Vector<T>, const FULL: bool, const NORM: bool>(
        &mut self,
        of: &Masking<'_, T>,
        c: usize,
        at: usize,
        n: usize,
    ) {
        let zero = V::splat(T::zero());
        // SAFETY: the caller's promise.
        unsafe {
            let maker = Maker::<V, NORM>::new::<T, FULL>(of, at, n);
            let mut sums = [zero; 2];
            for i in (at..of.z.len()).step_by(c) {
                sums = [sums[1], sums[0].add(maker.pixel(lanes::<T, V, FULL>(of.z.as_ptr().add(i), n)))];
            }
            self.0.add_lanes(at, n, sums[0].add(sums[1]), zero);
        }
    }
}

/// The gradient of [`global_avg_pool`]'s map, (pool.2), masked and summed up; added to `onto`, if other consumers of the map have
/// sent theirs back.
///
/// # Errors
/// [`Error::Shape`] if `dy` is not `[N,C]`, or `onto` not of the map's shape.
pub fn global_avg_pool_backward<T: Real>(
    map: &Pending<T>,
    dy: &Tensor<T>,
    onto: Option<MaskedGrad<T>>,
) -> Result<MaskedGrad<T>> {
    const OP: &str = "global_avg_pool_backward";
    let [n, c, positions] = fit(OP, map, "dy", dy)?;
    let loader = &map.loader();
    let adds = onto.is_some();
    let mut grad = onto.unwrap_or_else(|| MaskedGrad { dy: Tensor::any(map.z.shape()), sums: total(None, loader) });
    if grad.dy.shape() != map.z.shape() {
        return Err(Error::shape(OP, "onto", format!("{:?}", map.z.shape()), grad.dy.shape()));
    }
    let images = if map.z.is_empty() { Vec::new() } else { ranges(n, PIECES) };
    let parts = parts_mut(grad.dy.as_mut_slice(), &images, positions * c);
    let sums = run_tasks(images.into_iter().zip(parts).collect(), PASS * map.z.len(), |(images, dx)| {
        dispatch(MeanBackward { map: loader, dy: dy.as_slice(), positions, images, dx, adds })
    });
    grad.add_sums(&total(sums, loader));
    Ok(grad)
}

struct MeanBackward<'a, T> {
    map: &'a Loader<'a, T>,
    dy: &'a [T],
    positions: usize,
    images: Range<usize>,
    dx: &'a mut [T],
    adds: bool,
}

impl<T: Real> Kernel<T> for MeanBackward<'_, T> {
    type Output = Sums;

    #[inline(always)]
    fn run<V: Vector<T>>(self) -> Sums {
        let MeanBackward { map, dy, positions, images, dx, adds } = self;
        let c = map.c;
        let per_position = T::of(1.0 / positions.max(1) as f64);
        let mut sums = Sums::zeros(c);
        for (n, at, pixels) in blocks(images, positions, c) {
            let (d, da) = (&mut dx[at..][..pixels.len() * c], &dy[n * c..][..c]);
            if !map.is_plain() {
                map.ahead(pixels.start, pixels.len()).ask_to_read::<V>();
            }
            Stretch::after(d).ask_to_write::<V>();
            let mut strip = Spread { da, per_position, d, adds, sums: &mut sums };
            map.strips::<V>(pixels.start, pixels.len(), &mut strip);
        }
        sums
    }
}

/// The same da at every pixel.
struct Spread<'a, T> {
    da: &'a [T],
    per_position: T,
    d: &'a mut [T],
    adds: bool,
    sums: &'a mut Sums,
}

impl<T: Real> Strip<T> for Spread<'_, T> {
    #[inline(always)]
    unsafe fn run<V: Vector<T>, const FULL: bool, const NORM: bool>(
        &mut self,
        of: &Masking<'_, T>,
        c: usize,
        at: usize,
        n: usize,
    ) {
        assert!(self.d.len() == of.z.len() && self.da.len() == c);
        let masks = NORM || of.rectifier != Rectifier::Identity;
        // SAFETY: the caller's promise; `d` has as many pixels.
        unsafe {
            let mut finisher = Finisher::<V, NORM>::new::<T, FULL>(of, at, n);
            let da = lanes::<T, V, FULL>(self.da.as_ptr().add(at), n).mul(V::splat(self.per_position));
            for pair in (at..self.d.len()).step_by(2 * c) {
                for half in 0..2 {
                    let i = pair + half * c;
                    if i >= self.d.len() {
                        break;
                    }
                    let d = self.d.as_mut_ptr().add(i);
                    let z = if masks { lanes::<T, V, FULL>(of.z.as_ptr().add(i), n) } else { da };
                    let mut masked = finisher.pixel(z, da, half);
                    if self.adds {
                        masked = masked.add(lanes::<T, V, FULL>(d, n));
                    }
                    store_lanes::<T, V, FULL>(masked, d, n);
                }
            }
            finisher.add_to::<T>(self.sums, at, n);
        }
    }
}

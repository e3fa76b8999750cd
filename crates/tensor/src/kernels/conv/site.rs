//! A depthwise convolution of what a folded site gives, (ft.7), which is in no memory: it makes the rows that its kernel
//! reaches, and on the way back once more. While it makes their gradient, it gathers what the site needs of it.

#![allow(unsafe_code, reason = "vectors are loaded through raw pointers")]

use super::depthwise::{Backward, Forward, Input, channel_major, tap_major};
use super::plan::{BackwardTask, ForwardTask, Path, add};
use super::window::{Rows, Window, slots};
use super::{Geometry, Options, Sizes};
use crate::kernels::batch_norm::BatchStats;
use crate::kernels::folded::{Correlation, Correlations, Correlator, PendingSite, SiteRows};
use crate::kernels::pending::{PendingGrad, Rectifier, statistics};
use crate::kernels::tile::{lanes, store_lanes};
use crate::parallel::{PIECES, parts_mut, ranges, run_tasks};
use crate::simd::{Vector, dispatch};
use crate::{Error, Real, Result, Tensor};

/// The gradients of [`conv2d_site`].
#[derive(Clone, Debug)]
pub struct SiteConvGrads<T: Real> {
    /// The site's output's, `[N,C,H,W]`, already masked by the site's rectifier, and what a pass over it would gather.
    pub dx: Option<(Tensor<T>, Correlations<T>)>,
    /// The kernels', `[C,1,kh,kw]`.
    pub dw: Option<Tensor<T>>,
}

/// A depthwise convolution of a site's output, (ft.7) and (conv.1), and its statistics if wanted.
///
/// # Shapes
/// `x [N,C,H,W]`, `w [C,1,kh,kw]` → `[N,C,OH,OW]`; statistics `[C]`.
///
/// # Errors
/// As [`conv2d_pending`](super::conv2d_pending), and if the convolution is not depthwise.
pub fn conv2d_site<T: Real>(
    x: &PendingSite<T>,
    w: &Tensor<T>,
    geo: &Geometry,
    options: Options,
) -> Result<(Tensor<T>, Option<BatchStats<T>>)> {
    const OP: &str = "conv2d";
    let s = &sizes(OP, x, w, geo)?;
    let Options { rectifier, statistics: with_moments } = options;
    let mut y = Tensor::any(s.y_shape());
    let rows = ranges(s.n * s.oh, PIECES);
    let parts = parts_mut(y.as_mut_slice(), &rows, s.ow * s.o);
    let w = &tap_major(s, w.as_slice());
    let moments = run_tasks(rows.into_iter().zip(parts).collect(), work(x, s), |(rows, y)| {
        let task = ForwardTask { s, x: x.rows(s.w, slots(s.reach())), w, bias: None, rectifier, rows, y, with_moments };
        dispatch(Forward(task)).finish()
    });
    let stats = with_moments.then(|| statistics(OP, moments)).transpose()?;
    Ok((y, stats))
}

/// The gradients of [`conv2d_site`], (conv.3) and (conv.2), each if it is wanted.
///
/// # Shapes
/// `dy [N,C,OH,OW]`; the gradients as [`SiteConvGrads`].
///
/// # Errors
/// As [`conv2d_site`], and if `dy` has not the output's shape.
pub fn conv2d_site_backward<T: Real>(
    x: &PendingSite<T>,
    w: &Tensor<T>,
    dy: &PendingGrad<T>,
    geo: &Geometry,
    [want_x, want_w]: [bool; 2],
) -> Result<SiteConvGrads<T>> {
    const OP: &str = "conv2d_backward";
    let s = &sizes(OP, x, w, geo)?;
    s.check_dy(OP, &dy.dy)?;
    let images = ranges(s.n, PIECES);
    let mut dx = want_x.then(|| Tensor::any(*x.shape()));
    let dxs: Vec<Option<&mut [T]>> = match &mut dx {
        Some(dx) => parts_mut(dx.as_mut_slice(), &images, s.h * s.w * s.c).into_iter().map(Some).collect(),
        None => images.iter().map(|_| None).collect(),
    };
    let (taps, dy) = (&tap_major(s, w.as_slice()), &dy.loader());
    let done = run_tasks(images.into_iter().zip(dxs).collect(), work(x, s), |(images, dx)| {
        let mut dw = want_w.then(|| vec![T::zero(); s.weights()]);
        let input =
            SiteInput { rows: x.rows(s.w, slots(s.reach())), correlator: x.correlator(), g: vec![T::zero(); s.c] };
        let task = BackwardTask { s, x: input, dy, w: taps, images, dx, dw: dw.as_deref_mut() };
        (dispatch(Backward(task)), dw)
    });
    let (correlations, of_kernels): (Vec<_>, Vec<_>) = done.into_iter().unzip();
    let dw = of_kernels.into_iter().flatten().reduce(|mut sum, part| {
        add(&mut sum, &part);
        sum
    });
    let dw = dw.map(|dw| Tensor::from_memory(w.shape(), channel_major(s, &dw))).transpose()?;
    let correlations = || Correlations::join(correlations.into_iter().flatten());
    Ok(SiteConvGrads { dx: dx.map(|dx| (dx, correlations())), dw })
}

/// Input channels of a site up to which a pixel is made again in less time than it takes to write and read.
const MOST_CHANNELS: usize = 24;

/// Whether a convolution with these kernels can read what a site gives without its being made, and gains by it: a choice
/// by sizes alone, never by a timing. `cargo bench --bench kernels site` shows both sides.
pub fn reads_site<T: Real>(x: &PendingSite<T>, w: &Tensor<T>, geo: &Geometry) -> bool {
    x.channels_in() <= MOST_CHANNELS && sizes("conv2d", x, w, geo).is_ok()
}

/// Multiply-adds of (ft.7) and (conv.1).
fn work<T: Real>(x: &PendingSite<T>, s: &Sizes) -> usize {
    x.macs() + s.n * s.oh * s.ow * s.weights()
}

fn sizes<T: Real>(op: &'static str, x: &PendingSite<T>, w: &Tensor<T>, geo: &Geometry) -> Result<Sizes> {
    let [n, c, h, w_x] = x.shape()[..] else { unreachable!("a site's output has rank 4") };
    let s = Sizes::of(op, [n, c, h, w_x], w, geo, false)?;
    if Path::of(&s) != Path::Depthwise {
        return Err(Error::invalid(op, "only a depthwise convolution reads a site's output that nobody has made"));
    }
    Ok(s)
}

impl<T: Real> Rows<T> for SiteRows<'_, T> {
    fn channels(&self) -> usize {
        SiteRows::channels(self)
    }

    #[inline(always)]
    fn make<V: Vector<T>>(&mut self, row: usize, pixels: usize, slot: usize, out: &mut [T]) {
        SiteRows::make::<V, 0>(self, slot, row * pixels, out, []);
    }
}

/// A site's output, and what the site needs of its gradient.
struct SiteInput<'a, T: Real> {
    rows: SiteRows<'a, T>,
    correlator: Correlator<T>,
    /// Sums of a row's gradient.
    g: Vec<T>,
}

impl<T: Real> Rows<T> for SiteInput<'_, T> {
    fn channels(&self) -> usize {
        SiteRows::channels(&self.rows)
    }

    #[inline(always)]
    fn make<V: Vector<T>>(&mut self, row: usize, pixels: usize, slot: usize, out: &mut [T]) {
        Rows::make::<V>(&mut self.rows, row, pixels, slot, out);
    }
}

impl<T: Real> Input<T> for SiteInput<'_, T> {
    type Sums = Vec<Correlation<T>>;

    // ANCHOR: finish
    #[inline(always)]
    fn finish<V: Vector<T>>(rows: &mut Window<T, Self>, row: usize, d: &mut [T]) {
        let (y, slot, SiteInput { rows, correlator, g }) = rows.pixels::<V>(row);
        let (c, site) = (g.len(), rows.site());
        mask::<T, V>(y, site.rectifier(), d, g);
        correlator.add::<V, 0>(site.sample(row * (d.len() / c)), rows.centred(slot), (d, c), g, []);
    }
    // ANCHOR_END: finish

    fn sums(self) -> Self::Sums {
        self.correlator.finish()
    }
}

/// Sets `d` to zero where the rectifier is flat at `y`, and `g` to the sums of what is left, a channel.
#[inline(always)]
fn mask<T: Real, V: Vector<T>>(y: &[T], rectifier: Rectifier, d: &mut [T], g: &mut [T]) {
    let c = g.len();
    assert!(y.len() == d.len() && d.len().is_multiple_of(c));
    for at in (0..c).step_by(V::LANES) {
        let n = V::LANES.min(c - at);
        // SAFETY: both hold the same rows of C elements, and `at + n ≤ C`.
        unsafe {
            if n == V::LANES {
                mask_lanes::<T, V, true>(y, rectifier, d, g, at, n);
            } else {
                mask_lanes::<T, V, false>(y, rectifier, d, g, at, n);
            }
        }
    }
}

#[inline(always)]
unsafe fn mask_lanes<T: Real, V: Vector<T>, const FULL: bool>(
    y: &[T],
    rectifier: Rectifier,
    d: &mut [T],
    g: &mut [T],
    at: usize,
    n: usize,
) {
    let c = g.len();
    let (pixels, y, d) = (d.len() / c, y[at..].as_ptr(), d[at..].as_mut_ptr());
    let masks = rectifier != Rectifier::Identity;
    let [low, high] = rectifier.bounds::<T>().map(V::splat);
    // Two sums: an addition need not wait for the one before it.
    let mut sums = [V::splat(T::zero()); 2];
    // SAFETY: the caller has checked the extents.
    unsafe {
        for i in 0..pixels {
            let mut dy = lanes::<T, V, FULL>(d.add(i * c), n);
            if masks {
                dy = dy.keep_between(lanes::<T, V, FULL>(y.add(i * c), n), low, high);
                store_lanes::<T, V, FULL>(dy, d.add(i * c), n);
            }
            sums = [sums[1], sums[0].add(dy)];
        }
        store_lanes::<T, V, FULL>(sums[0].add(sums[1]), g[at..].as_mut_ptr(), n);
    }
}

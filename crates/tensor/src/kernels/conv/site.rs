//! A depthwise convolution of what a folded site gives, (ft.7), which is in no memory: it makes the rows that its kernel
//! reaches, and on the way back once more. While it makes their gradient, it gathers what the site needs of it.

use super::depthwise::{self, Grads, Input, RowSums};
use super::window::{Rows, Window, slots};
use super::{Geometry, Options, Sizes};
use crate::kernels::batch_norm::BatchStats;
use crate::kernels::folded::{Correlation, Correlations, Correlator, PendingSite, SiteRows};
use crate::kernels::pending::{Masking, PendingGrad};
use crate::simd::{Vector, knows};
use crate::{Real, Result, Tensor};

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
    let s = &depthwise::sizes(OP, x.shape(), w, geo)?;
    match x.channels() {
        [16, 16] if knows::<T>() => forward::<T, 16, 16>(OP, s, x, w, options),
        [16, 32] if knows::<T>() => forward::<T, 16, 32>(OP, s, x, w, options),
        _ => forward::<T, 0, 0>(OP, s, x, w, options),
    }
}

fn forward<T: Real, const C: usize, const O: usize>(
    op: &'static str,
    s: &Sizes,
    x: &PendingSite<T>,
    w: &Tensor<T>,
    options: Options,
) -> Result<(Tensor<T>, Option<BatchStats<T>>)> {
    depthwise::forward(op, s, || x.rows::<C, O>(s.w, slots(s.reach())), w, options, work(x, s))
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
    want: [bool; 2],
) -> Result<SiteConvGrads<T>> {
    const OP: &str = "conv2d_backward";
    let s = &depthwise::sizes(OP, x.shape(), w, geo)?;
    s.check_dy(OP, &dy.dy)?;
    match x.channels() {
        [16, 16] if knows::<T>() => backward::<T, 16, 16>(s, x, w, dy, want),
        [16, 32] if knows::<T>() => backward::<T, 16, 32>(s, x, w, dy, want),
        _ => backward::<T, 0, 0>(s, x, w, dy, want),
    }
}

fn backward<T: Real, const C: usize, const O: usize>(
    s: &Sizes,
    x: &PendingSite<T>,
    w: &Tensor<T>,
    dy: &PendingGrad<T>,
    want: [bool; 2],
) -> Result<SiteConvGrads<T>> {
    let input = || SiteInput { rows: x.rows::<C, O>(s.w, slots(s.reach())), correlator: Correlator::new() };
    let Grads { dx, dw } = depthwise::backward(s, input, w, dy, want, work(x, s))?;
    Ok(SiteConvGrads { dx: dx.map(|(dx, of)| (dx, Correlations::join(of.into_iter().flatten()))), dw })
}

/// Input channels of a site up to which a pixel is made again in less time than it takes to write and read.
const MOST_CHANNELS: usize = 24;

/// Whether a convolution with these kernels can read what a site gives without its being made, and gains by it: a choice
/// by sizes alone, never by a timing. `cargo bench --bench kernels site` shows both sides.
pub fn reads_site<T: Real>(x: &PendingSite<T>, w: &Tensor<T>, geo: &Geometry) -> bool {
    x.channels()[0] <= MOST_CHANNELS && depthwise::sizes("conv2d", x.shape(), w, geo).is_ok()
}

/// Multiply-adds of (ft.7) and (conv.1).
fn work<T: Real>(x: &PendingSite<T>, s: &Sizes) -> usize {
    x.macs().saturating_add(s.macs())
}

impl<T: Real, const C: usize, const O: usize> Rows<T> for SiteRows<'_, T, C, O> {
    const KNOWN: usize = O;

    fn channels(&self) -> usize {
        SiteRows::channels(self)[1]
    }

    #[inline(always)]
    fn make<V: Vector<T>>(&mut self, row: usize, pixels: usize, slot: usize, out: &mut [T]) {
        SiteRows::make::<V, 0>(self, slot, row * pixels, out, []);
    }
}

/// A site's output, and what the site needs of its gradient.
struct SiteInput<'a, T: Real, const C: usize, const O: usize> {
    rows: SiteRows<'a, T, C, O>,
    correlator: Correlator<T>,
}

impl<T: Real, const C: usize, const O: usize> Rows<T> for SiteInput<'_, T, C, O> {
    const KNOWN: usize = O;

    fn channels(&self) -> usize {
        Rows::channels(&self.rows)
    }

    #[inline(always)]
    fn make<V: Vector<T>>(&mut self, row: usize, pixels: usize, slot: usize, out: &mut [T]) {
        Rows::make::<V>(&mut self.rows, row, pixels, slot, out);
    }
}

impl<T: Real, const C: usize, const O: usize> Input<T> for SiteInput<'_, T, C, O> {
    type Sums = Vec<Correlation<T>>;

    // ANCHOR: finish
    #[inline(always)]
    fn masking<V: Vector<T>>(rows: &mut Window<T, Self>, row: usize) -> Masking<'_, T> {
        let (z, _, SiteInput { rows, .. }) = rows.made::<V>(row);
        Masking { z, norm: None, rectifier: rows.site().rectifier() }
    }

    #[inline(always)]
    fn take_in<V: Vector<T>>(rows: &mut Window<T, Self>, row: usize, d: &[T], sums: &mut RowSums<T>) {
        let first = row * rows.pixels;
        let (_, slot, SiteInput { rows, correlator }) = rows.made::<V>(row);
        let (channels, [g, _]) = (SiteRows::channels(rows), &sums.sums);
        correlator.add::<V, 0>(channels, rows.site().sample(first), rows.centred(slot), (d, channels[1]), g, []);
        sums.clear();
    }
    // ANCHOR_END: finish

    fn sums(self, _rest: RowSums<T>) -> Self::Sums {
        self.correlator.finish()
    }
}

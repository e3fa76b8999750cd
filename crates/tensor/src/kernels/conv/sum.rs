//! A depthwise convolution of a sum of maps, (pend.4), which is in no memory: it makes the rows that its kernel reaches, and on
//! the way back once more. While it makes their gradient, it sums up what the batch norms of the maps need of it.

use super::depthwise::{self, Grads, Input, RowSums};
use super::window::{Rows, Window};
use super::{Geometry, Options};
use crate::kernels::batch_norm::BatchStats;
use crate::kernels::moments::Sums;
use crate::kernels::pending::{GradSums, Masking, Pending, PendingGrad, PendingSum, SumRows, total};
use crate::simd::Vector;
use crate::{Error, Real, Result, Tensor};

/// The gradients of [`conv2d_sum`].
#[derive(Clone, Debug)]
pub struct SumConvGrads<T: Real> {
    /// That of every map, `[N,C,H,W]`, behind the rectifier of the sum, and for each map its sums, empty where it has no norm.
    pub dx: Option<(Tensor<T>, Vec<GradSums>)>,
    /// The kernels', `[C,1,kh,kw]`.
    pub dw: Option<Tensor<T>>,
}

/// A depthwise convolution of a sum of maps, (pend.4) and (conv.1), and its statistics if wanted.
///
/// # Shapes
/// `x [N,C,H,W]`, `w [C,1,kh,kw]` → `[N,C,OH,OW]`; statistics `[C]`.
///
/// # Errors
/// As [`conv2d_pending`](super::conv2d_pending), and if the convolution is not depthwise.
pub fn conv2d_sum<T: Real>(
    x: &PendingSum<T>,
    w: &Tensor<T>,
    geo: &Geometry,
    options: Options,
) -> Result<(Tensor<T>, Option<BatchStats<T>>)> {
    const OP: &str = "conv2d";
    let s = &depthwise::sizes(OP, x.shape(), w, geo)?;
    depthwise::forward(OP, s, || x.rows(), w, options, s.macs())
}

/// The gradients of [`conv2d_sum`], (conv.3) and (conv.2), each if it is wanted.
///
/// # Shapes
/// `dy [N,C,OH,OW]`; the gradients as [`SumConvGrads`].
///
/// # Errors
/// As [`conv2d_sum`], and if `dy` has not the output's shape or a map has a rectifier of its own.
pub fn conv2d_sum_backward<T: Real>(
    x: &PendingSum<T>,
    w: &Tensor<T>,
    dy: &PendingGrad<T>,
    geo: &Geometry,
    want: [bool; 2],
) -> Result<SumConvGrads<T>> {
    const OP: &str = "conv2d_backward";
    let s = &depthwise::sizes(OP, x.shape(), w, geo)?;
    s.check_dy(OP, &dy.dy)?;
    if !x.is_linear() {
        return Err(Error::invalid(OP, "a map of the sum has a rectifier of its own"));
    }
    let input = || SumInput { rows: x.rows(), sums: x.maps().iter().map(|_| Sums::zeros(s.c)).collect() };
    let Grads { dx, dw } = depthwise::backward(s, input, w, dy, want, s.macs())?;
    let join = |(dy, of_tasks): (Tensor<T>, Vec<Vec<Sums>>)| {
        let mut of_tasks: Vec<_> = of_tasks.into_iter().map(Vec::into_iter).collect();
        let of_map = |map: &Pending<T>| total(of_tasks.iter_mut().filter_map(Iterator::next), &map.loader());
        (dy, x.maps().iter().map(of_map).collect())
    };
    Ok(SumConvGrads { dx: dx.map(join), dw })
}

/// Whether a convolution with these kernels can read a sum without its being made. If it is the only one to read it, it always
/// gains: the sum is neither written nor read, and no branch needs a pass for its norm. `cargo bench --bench kernels sum` shows
/// both sides.
pub fn reads_sum<T: Real>(x: &PendingSum<T>, w: &Tensor<T>, geo: &Geometry) -> bool {
    x.is_linear() && depthwise::sizes("conv2d", x.shape(), w, geo).is_ok()
}

impl<T: Real> Rows<T> for SumRows<'_, T> {
    fn channels(&self) -> usize {
        self.maps()[0].c
    }

    #[inline(always)]
    fn make<V: Vector<T>>(&mut self, row: usize, pixels: usize, _slot: usize, out: &mut [T]) {
        SumRows::make::<V>(self, row * pixels, out);
    }
}

/// A sum, and for each of its maps the sums of the gradient, (pend.2).
struct SumInput<'a, T: Real> {
    rows: SumRows<'a, T>,
    sums: Vec<Sums>,
}

impl<T: Real> Rows<T> for SumInput<'_, T> {
    fn channels(&self) -> usize {
        Rows::channels(&self.rows)
    }

    #[inline(always)]
    fn make<V: Vector<T>>(&mut self, row: usize, pixels: usize, slot: usize, out: &mut [T]) {
        Rows::make::<V>(&mut self.rows, row, pixels, slot, out);
    }
}

impl<T: Real> Input<T> for SumInput<'_, T> {
    type Sums = Vec<Sums>;

    #[inline(always)]
    fn masking<V: Vector<T>>(rows: &mut Window<T, Self>, row: usize) -> Masking<'_, T> {
        let (z, _, SumInput { rows, .. }) = rows.made::<V>(row);
        Masking { z, norm: None, rectifier: rows.rectifier() }
    }

    #[inline(always)]
    fn take_in<V: Vector<T>>(rows: &mut Window<T, Self>, row: usize, d: &[T], of_row: &mut RowSums<T>) {
        let first = row * rows.pixels;
        let SumInput { rows, sums } = &mut rows.source;
        // `of_row` has Σ dŷ too, but the other sum needs a pass over the row anyway.
        for (map, sums) in rows.maps().iter().zip(sums) {
            map.sum_up::<V>(first, d, sums);
        }
        of_row.clear();
    }

    fn sums(self, _rest: RowSums<T>) -> Self::Sums {
        self.sums
    }
}

//! Depthwise convolutions whose input is in no memory, split over threads: each task has its own maker of rows.

use super::super::plan::{BackwardTask, ForwardTask, Path, add};
use super::super::window::Rows;
use super::super::{Geometry, Options, Sizes};
use super::grad::{Backward, Input};
use super::{Forward, channel_major, tap_major};
use crate::kernels::batch_norm::BatchStats;
use crate::kernels::pending::{PendingGrad, statistics};
use crate::parallel::{PIECES, parts_mut, ranges, run_tasks};
use crate::simd::dispatch;
use crate::{Error, Real, Result, Shape, Tensor};

/// (conv.1) with what `options` ask for; `work` counts multiply-adds.
pub(in super::super) fn forward<T: Real, X: Rows<T>>(
    op: &'static str,
    s: &Sizes,
    rows_of_task: impl Fn() -> X + Send + Sync,
    w: &Tensor<T>,
    options: Options,
    work: usize,
) -> Result<(Tensor<T>, Option<BatchStats<T>>)> {
    let Options { rectifier, statistics: with_moments } = options;
    let mut y = Tensor::any(s.y_shape());
    let rows = ranges(s.n * s.oh, PIECES);
    let parts = parts_mut(y.as_mut_slice(), &rows, s.ow * s.o);
    let w = &tap_major(s, w.as_slice());
    let moments = run_tasks(rows.into_iter().zip(parts).collect(), work, |(rows, y)| {
        dispatch(Forward(ForwardTask { s, x: rows_of_task(), w, bias: None, rectifier, rows, y, with_moments }))
            .finish()
    });
    let stats = with_moments.then(|| statistics(op, moments)).transpose()?;
    Ok((y, stats))
}

/// What [`backward`] gives, each if it is wanted.
pub(in super::super) struct Grads<T: Real, S> {
    /// The input's gradient, masked, and what the tasks have gathered of it, in their order.
    pub dx: Option<(Tensor<T>, Vec<S>)>,
    /// The kernels'.
    pub dw: Option<Tensor<T>>,
}

/// (conv.2) and (conv.3), each if it is wanted.
pub(in super::super) fn backward<T: Real, X: Input<T>>(
    s: &Sizes,
    input_of_task: impl Fn() -> X + Send + Sync,
    w: &Tensor<T>,
    dy: &PendingGrad<T>,
    [want_x, want_w]: [bool; 2],
    work: usize,
) -> Result<Grads<T, X::Sums>> {
    let images = ranges(s.n, PIECES);
    let mut dx = want_x.then(|| Tensor::any([s.n, s.c, s.h, s.w]));
    let dxs: Vec<Option<&mut [T]>> = match &mut dx {
        Some(dx) => parts_mut(dx.as_mut_slice(), &images, s.h * s.w * s.c).into_iter().map(Some).collect(),
        None => images.iter().map(|_| None).collect(),
    };
    let (taps, dy) = (&tap_major(s, w.as_slice()), &dy.loader());
    let done = run_tasks(images.into_iter().zip(dxs).collect(), work, |(images, dx)| {
        let mut dw = want_w.then(|| vec![T::zero(); s.weights()]);
        let task = BackwardTask { s, x: input_of_task(), dy, w: taps, images, dx, dw: dw.as_deref_mut() };
        (dispatch(Backward(task)), dw)
    });
    let (sums, of_kernels): (Vec<_>, Vec<_>) = done.into_iter().unzip();
    let dw = of_kernels.into_iter().flatten().reduce(|mut sum, part| {
        add(&mut sum, &part);
        sum
    });
    let dw = want_w.then(|| dw.unwrap_or_else(|| vec![T::zero(); s.weights()])); // of no images: zeros
    let dw = dw.map(|dw| Tensor::from_memory(w.shape(), channel_major(s, &dw))).transpose()?;
    Ok(Grads { dx: dx.map(|dx| (dx, sums)), dw })
}

/// The sizes of a depthwise convolution of what has this shape.
///
/// # Errors
/// As [`conv2d_pending`](super::super::conv2d_pending), and if the convolution is not depthwise.
pub(in super::super) fn sizes<T: Real>(op: &'static str, x: &Shape, w: &Tensor<T>, geo: &Geometry) -> Result<Sizes> {
    let [n, c, h, w_x] = x[..] else { unreachable!("what is not made has rank 4") };
    let s = Sizes::of(op, [n, c, h, w_x], w, geo, false)?;
    if Path::of::<T>(&s) != Path::Depthwise {
        return Err(Error::invalid(op, "only a depthwise convolution reads a map that nobody has made"));
    }
    Ok(s)
}

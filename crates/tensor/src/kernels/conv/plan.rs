//! Which path computes a convolution, and how its work is split over threads.

use std::borrow::Cow;
use std::ops::Range;

use rayon::prelude::*;

use super::{Sizes, columns, depthwise, pointwise};
use crate::Real;
use crate::parallel::{PIECES, sum_pieces};

/// Elements of the widest map a task covers: enough to pay for the task, few enough to stay in cache.
const TASK: usize = 1 << 15;
/// Pixels a partial `dW` sums at least.
const PIXELS: usize = 128;
/// Elements all partial `dW` together may have.
const PARTIALS: usize = 1 << 24;

/// The ways to compute a convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Path {
    /// One product over the pixels of the whole batch.
    Pointwise,
    /// Taps added up directly, vectors over channels.
    Depthwise,
    /// Columns and a product a group: everything else.
    Columns,
}

impl Path {
    /// The path for these sizes: the dispatch.
    // ANCHOR: path
    pub fn of(s: &Sizes) -> Self {
        let one_to_one = [s.kh, s.kw] == [1; 2] && s.geo.stride == [1; 2] && s.geo.padding == [0; 2];
        if one_to_one && s.geo.groups == 1 {
            Path::Pointwise
        } else if s.geo.groups == s.c && s.geo.groups == s.o {
            Path::Depthwise
        } else {
            Path::Columns
        }
    }
    // ANCHOR_END: path
}

/// A convolution ready to run: its sizes and its path. Rows are counted over the whole batch, row `n·OH + i` of the
/// output is row `i` of sample `n`.
pub(super) struct Plan {
    s: Sizes,
    path: Path,
}

impl Plan {
    pub fn new(s: Sizes) -> Self {
        Plan { s, path: Path::of(&s) }
    }

    /// (conv.1) into `y`.
    pub fn forward<T: Real>(&self, x: &[T], w: &[T], b: Option<&[T]>, y: &mut [T]) {
        let (s, w) = (&self.s, self.packed(w));
        let task_rows = if s.per_sample { s.oh } else { rows_per_task(s.ow * s.c.max(s.o)) };
        y.par_chunks_mut(task_rows * s.ow * s.o).enumerate().for_each_init(Vec::new, |scratch, (task, y)| {
            let rows = part(task, task_rows, s.n * s.oh);
            let kernel = if s.per_sample { task } else { 0 };
            let w = &w[kernel * s.weights()..][..s.weights()];
            if let Some(b) = b {
                let b = &b[kernel * s.o..][..s.o];
                y.chunks_exact_mut(s.o).for_each(|y| y.copy_from_slice(b));
            }
            match self.path {
                Path::Pointwise => pointwise::forward(s, x, w, rows, y),
                Path::Depthwise => depthwise::forward(s, x, w, rows, y),
                Path::Columns => columns::forward(s, x, w, rows, y, scratch),
            }
        });
    }

    /// (conv.2): `dW` in memory order, summed over the batch or one for each sample.
    pub fn grad_w<T: Real>(&self, x: &[T], dy: &[T]) -> Vec<T> {
        let s = &self.s;
        let accumulate = |rows: Range<usize>, dw: &mut [T], scratch: &mut Vec<T>| match self.path {
            Path::Pointwise => pointwise::grad_w(s, x, dy, rows, dw),
            Path::Depthwise => depthwise::grad_w(s, x, dy, rows, dw),
            Path::Columns => columns::grad_w(s, x, dy, rows, dw, scratch),
        };
        let dw = if s.per_sample {
            let mut dw = vec![T::zero(); s.n * s.weights()];
            dw.par_chunks_mut(s.weights())
                .enumerate()
                .for_each_init(Vec::new, |scratch, (n, dw)| accumulate(n * s.oh..(n + 1) * s.oh, dw, scratch));
            dw
        } else {
            let rows = s.n * s.oh;
            let at_most = (PARTIALS / s.weights()).clamp(4, PIECES).min(rows);
            let parts = (rows * s.ow).div_ceil(PIXELS).min(at_most);
            let sum = |part: Range<usize>| {
                let mut dw = vec![T::zero(); s.weights()];
                accumulate(rows * part.start / parts..rows * part.end / parts, &mut dw, &mut Vec::new());
                dw
            };
            sum_pieces(parts, sum, |sum, part| add(sum, &part)).unwrap_or_else(|| vec![T::zero(); s.weights()])
        };
        if self.path == Path::Depthwise { depthwise::channel_major(s, &dw) } else { dw }
    }

    /// (conv.3) into `dx`, zero before.
    pub fn grad_x<T: Real>(&self, dy: &[T], w: &[T], dx: &mut [T]) {
        let (s, w) = (&self.s, self.packed(w));
        let rows = rows_per_task(s.w * s.c.max(s.o));
        let task_rows = match self.path {
            _ if s.per_sample => s.h,
            Path::Columns => rows.div_ceil(s.h) * s.h, // whole images: patches overlap
            Path::Pointwise | Path::Depthwise => rows,
        };
        dx.par_chunks_mut(task_rows * s.w * s.c).enumerate().for_each_init(Vec::new, |scratch, (task, dx)| {
            let rows = part(task, task_rows, s.n * s.h);
            let w = &w[if s.per_sample { task } else { 0 } * s.weights()..][..s.weights()];
            match self.path {
                Path::Pointwise => pointwise::grad_x(s, dy, w, rows, dx),
                Path::Depthwise => depthwise::grad_x(s, dy, w, rows, dx),
                Path::Columns => columns::grad_x(s, dy, w, rows.start / s.h..rows.end / s.h, dx, scratch),
            }
        });
    }

    /// `db[o] = Σ_{n,i,j} dy[n,o,i,j]`, or one for each sample without the sum over `n`.
    pub fn grad_b<T: Real>(&self, dy: &[T]) -> Vec<T> {
        let s = &self.s;
        let of_sample = |n: usize| {
            let mut sum = vec![T::zero(); s.o];
            dy[n * s.oh * s.ow * s.o..][..s.oh * s.ow * s.o].chunks_exact(s.o).for_each(|dy| add(&mut sum, dy));
            sum
        };
        if s.per_sample {
            return (0..s.n).into_par_iter().flat_map_iter(of_sample).collect();
        }
        let of_samples = |samples: Range<usize>| {
            let mut sum = vec![T::zero(); s.o];
            samples.for_each(|n| add(&mut sum, &of_sample(n)));
            sum
        };
        sum_pieces(s.n, of_samples, |sum, part| add(sum, &part)).unwrap_or_else(|| vec![T::zero(); s.o])
    }

    /// The kernels in the order in which the path reads them.
    fn packed<'a, T: Real>(&self, w: &'a [T]) -> Cow<'a, [T]> {
        match self.path {
            Path::Depthwise => Cow::Owned(depthwise::tap_major(&self.s, w)),
            Path::Pointwise | Path::Columns => Cow::Borrowed(w),
        }
    }
}

/// Rows of `width` elements a task computes.
fn rows_per_task(width: usize) -> usize {
    (TASK / width).max(1)
}

/// The rows of task number `task`.
fn part(task: usize, task_rows: usize, rows: usize) -> Range<usize> {
    task * task_rows..((task + 1) * task_rows).min(rows)
}

/// `sum += values`.
fn add<T: Real>(sum: &mut [T], values: &[T]) {
    sum.iter_mut().zip(values).for_each(|(sum, &value)| *sum += value);
}

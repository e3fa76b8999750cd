//! Which path computes a convolution, and how its work is split over threads.

use std::ops::Range;

use super::{Options, PendingConvGrads, Sizes, Want, columns, dense, depthwise, pointwise, winograd};
use crate::aligned::Aligned;
use crate::kernels::batch_norm::BatchStats;
use crate::kernels::moments::{Moments, RowMoments, Sums};
use crate::kernels::pending::{GradLoader, Loader, MaskedGrad, Pending, PendingGrad, Rectifier, statistics, total};
use crate::kernels::tile::{fill_transposed_panel, from_transposed_panel, panel, panel_row};
use crate::parallel::{PIECES, parts_mut, ranges, run_tasks, split};
use crate::simd::{Kernel, Vector, dispatch};
use crate::{Real, Result, Tensor};

/// Elements all partial `dW` together may have.
const PARTIALS: usize = 1 << 24;

/// The ways to compute a convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Path {
    /// One product over the pixels.
    Pointwise,
    /// Taps added up directly, vectors over channels.
    Depthwise,
    /// Tiles of 3x3 kernels, in fewer products.
    Winograd,
    /// A product that reads patches where they lie.
    Dense,
    /// Columns and a product a group: everything else.
    Columns,
}

impl Path {
    /// The path for these sizes: the dispatch.
    // ANCHOR: path
    pub fn of<T: Real>(s: &Sizes) -> Self {
        let one_to_one = [s.kh, s.kw] == [1; 2] && s.geo.stride == [1; 2] && s.geo.padding == [0; 2];
        if one_to_one && s.geo.groups == 1 {
            Path::Pointwise
        } else if s.geo.groups == s.c && s.geo.groups == s.o {
            Path::Depthwise
        } else if winograd::pays::<T>(s) {
            Path::Winograd
        } else if s.geo.groups == 1 {
            Path::Dense
        } else {
            Path::Columns
        }
    }
    // ANCHOR_END: path

    /// Elements of a set of kernels as the forward pass reads them, and of the sum of their gradients, by every path but columns.
    pub fn panel_len(self, s: &Sizes) -> usize {
        match self {
            Path::Depthwise => s.weights(),
            Path::Winograd => winograd::panel_len(s.c, s.o),
            _ => s.taps() * panel_row(s.o),
        }
    }

    /// A set of kernels as the forward pass reads them. Its memory is used again: sets follow each other sample by sample.
    pub fn forward_panel<'a, T: Real>(self, s: &Sizes, w: &[T], memory: &'a mut Aligned<T>) -> &'a [T] {
        match self {
            Path::Depthwise => *memory = depthwise::tap_major(s, w),
            Path::Winograd => winograd::fill_forward_panel(s, w, memory),
            _ => fill_transposed_panel(w, s.o, s.taps(), memory),
        }
        memory
    }

    /// A task of a forward pass, by every path but columns.
    pub fn forward<T: Real>(self, task: ForwardTask<'_, T>) -> RowMoments<T> {
        match self {
            Path::Pointwise => dispatch(pointwise::Forward(task)),
            Path::Depthwise => dispatch(depthwise::Forward(task)),
            Path::Winograd => dispatch(winograd::Forward(task)),
            _ => dispatch(dense::Forward(task)),
        }
    }
}

/// Some rows of a forward pass, counted over the batch, all by the same kernels.
pub(super) struct ForwardTask<'a, T: Real, X = &'a Loader<'a, T>> {
    pub s: &'a Sizes,
    pub x: X,
    /// The kernels in the order in which the path reads them.
    pub w: &'a [T],
    /// In whole vectors.
    pub bias: Option<&'a [T]>,
    pub rectifier: Rectifier,
    pub rows: Range<usize>,
    /// The rows of the output.
    pub y: &'a mut [T],
    /// Whether the moments of the output are wanted.
    pub with_moments: bool,
}

/// Some images of a backward pass, all by the same kernels.
pub(super) struct BackwardTask<'a, T: Real, X = &'a Loader<'a, T>> {
    pub s: &'a Sizes,
    pub x: X,
    pub dy: &'a GradLoader<'a, T>,
    /// The kernels in the order in which the path reads them for (conv.3); empty where `dx` is not wanted.
    pub w: &'a [T],
    pub images: Range<usize>,
    /// The images of `dx`, if wanted.
    pub dx: Option<&'a mut [T]>,
    /// If wanted, the sum over the images in the order of the forward pass, which is added to. Of dense kernels that a sample has
    /// of its own: their gradient in memory order, which is written.
    pub dw: Option<&'a mut [T]>,
}

impl<'a, T: Real> BackwardTask<'a, T> {
    /// The same with another input.
    pub fn reading<Y>(self, x: Y) -> BackwardTask<'a, T, Y> {
        let BackwardTask { s, x: _, dy, w, images, dx, dw } = self;
        BackwardTask { s, x, dy, w, images, dx, dw }
    }
}

/// A convolution ready to run: its sizes and its path.
pub(super) struct Plan {
    s: Sizes,
    path: Path,
}

impl Plan {
    /// For elements of `T`.
    pub fn new<T: Real>(s: Sizes) -> Self {
        Plan { s, path: Path::of::<T>(&s) }
    }

    /// A set of kernels as (conv.3) reads them, in memory that is used again.
    fn backward_panel<'a, T: Real>(&self, w: &[T], memory: &'a mut Aligned<T>) -> &'a [T] {
        let s = &self.s;
        match self.path {
            Path::Depthwise => *memory = depthwise::tap_major(s, w),
            Path::Winograd => winograd::fill_turned_panel(s, w, memory),
            Path::Dense => dense::fill_turned_panel(s, w, memory),
            _ => *memory = panel(w, s.c),
        }
        memory
    }

    /// `range`, or where samples have their own kernels the parts of it that belong to each: its sample, and which part.
    /// A sample has `each` places in the range.
    fn by_sample(&self, range: Range<usize>, each: usize) -> impl Iterator<Item = (usize, Range<usize>)> + use<> {
        let per_sample = self.s.per_sample;
        let samples = if per_sample { range.start / each..range.end.div_ceil(each) } else { 0..1 };
        samples.map(move |n| match per_sample {
            true => (n, range.start.max(n * each)..range.end.min((n + 1) * each)),
            false => (0, range.clone()),
        })
    }

    /// (conv.1), with what `options` ask for.
    pub fn forward<T: Real>(
        &self,
        op: &'static str,
        x: &Pending<T>,
        w: &[T],
        b: Option<&[T]>,
        options: Options,
    ) -> Result<(Tensor<T>, Option<BatchStats<T>>)> {
        let s = &self.s;
        let Options { rectifier, statistics: with_moments } = options;
        let mut y = Tensor::any(s.y_shape());
        let together = match self.path {
            Path::Winograd => 2,
            Path::Dense => dense::rows_together(s, rectifier),
            _ => 1,
        };
        let rows = ranges(s.n * s.oh / together, PIECES);
        let rows: Vec<_> = rows.into_iter().map(|rows| rows.start * together..rows.end * together).collect();
        let parts = parts_mut(y.as_mut_slice(), &rows, s.ow * s.o);
        let tasks = rows.iter().cloned().zip(parts).collect();
        let moments: Vec<Moments> = if self.path == Path::Columns {
            let x = x.make();
            run_tasks(tasks, s.macs(), |(rows, y)| {
                columns::forward(s, x.as_slice(), w, b, rows, y);
                dispatch(Finish { c: s.o, y, rectifier, with_moments }).finish()
            })
        } else {
            let mut memory = Aligned::default();
            let shared = (!s.per_sample).then(|| self.path.forward_panel(s, w, &mut memory));
            let row = panel_row(s.o);
            let biases = b.map(|b| panel(b, s.o));
            let x = &x.loader();
            let moments = run_tasks(tasks, s.macs(), |(rows, y)| {
                let (first, mut memory) = (rows.start, Aligned::default());
                let of_sample = |(n, rows): (usize, Range<usize>)| {
                    // A sample's own kernels are packed when it is their turn, and stay in the cache.
                    let w = match shared {
                        Some(w) => w,
                        None => self.path.forward_panel(s, &w[n * s.weights()..][..s.weights()], &mut memory),
                    };
                    let bias = biases.as_ref().map(|biases| &biases[n * row..][..row]);
                    let y = &mut y[(rows.start - first) * s.ow * s.o..][..rows.len() * s.ow * s.o];
                    let task = ForwardTask { s, x, w, bias, rectifier, rows, y, with_moments };
                    self.path.forward(task).finish()
                };
                self.by_sample(rows, s.oh).map(of_sample).collect::<Vec<_>>()
            });
            moments.into_iter().flatten().collect()
        };
        let stats = with_moments.then(|| statistics(op, moments)).transpose()?;
        Ok((y, stats))
    }

    /// (conv.2) and (conv.3), as far as wanted, in shapes of memory.
    pub fn backward<T: Real>(
        &self,
        x: &Pending<T>,
        w: &Tensor<T>,
        dy: &PendingGrad<T>,
        want: Want,
    ) -> Result<PendingConvGrads<T>> {
        let s = &self.s;
        let by_columns = self.path == Path::Columns;
        let made = (want.b || by_columns).then(|| dy.clone().make());
        let mut grads = PendingConvGrads { dx: None, dw: None, db: None };
        if let (true, Some(dy)) = (want.b, &made) {
            let db = columns::grad_b(s, dy.as_slice());
            let shape: &[usize] = if s.per_sample { &[s.n, s.o] } else { &[s.o] };
            grads.db = Some(Tensor::from_memory(shape, db)?);
        }
        if let (true, Some(dy)) = (by_columns, &made) {
            if want.x {
                let mut dx = Tensor::zeros(x.z.shape());
                columns::grad_x(s, dy.as_slice(), w.as_slice(), dx.as_mut_slice());
                grads.dx = Some(MaskedGrad::of(x, dx)?);
            }
            if want.w {
                let dw = columns::grad_w(s, x.make().as_slice(), dy.as_slice());
                grads.dw = Some(Tensor::from_memory(w.shape(), dw)?);
            }
            return Ok(grads);
        }
        if !want.x && !want.w {
            return Ok(grads);
        }
        let mut memory = Aligned::default();
        let shared = match (want.x, s.per_sample) {
            (true, true) => None,
            (true, false) => Some(self.backward_panel(w.as_slice(), &mut memory)),
            (false, _) => Some(&[][..]),
        };
        let of_kernels = self.path.panel_len(s);
        let images = ranges(s.n, (PARTIALS / of_kernels.max(1)).clamp(4, PIECES));
        let mut dx = want.x.then(|| Tensor::any(x.z.shape()));
        let dxs: Vec<Option<&mut [T]>> = match &mut dx {
            Some(dx) => parts_mut(dx.as_mut_slice(), &images, s.h * s.w * s.c).into_iter().map(Some).collect(),
            None => images.iter().map(|_| None).collect(),
        };
        let mut dw = want.w.then(|| Tensor::any(w.shape()));
        // The gradients of each sample's kernels; where all share them, each task has a sum instead.
        let own: Vec<Option<&mut [T]>> = match &mut dw {
            Some(dw) if s.per_sample => {
                parts_mut(dw.as_mut_slice(), &images, s.weights()).into_iter().map(Some).collect()
            }
            _ => images.iter().map(|_| None).collect(),
        };
        let unpack = |panel: &[T], w: &mut [T]| match self.path {
            Path::Depthwise => w.copy_from_slice(&depthwise::channel_major(s, panel)),
            Path::Winograd => winograd::from_panel(s, panel, w),
            _ => from_transposed_panel(panel, s.o, s.taps(), w),
        };
        // A sum of gradients for each task. From the pool: fresh memory would be cleared page by page in each step.
        let straight = self.path == Path::Dense && s.per_sample; // into `dw` itself
        let of_set = if want.w && !straight { of_kernels } else { 0 };
        let mut sets = Tensor::any([images.len(), of_set]);
        let of_tasks = parts_mut(sets.as_mut_slice(), &ranges(images.len(), images.len()), of_set);
        let (loader, gradient) = (&x.loader(), &dy.loader());
        let tasks = images.into_iter().zip(dxs).zip(own.into_iter().zip(of_tasks)).collect();
        let sums =
            run_tasks(tasks, s.macs(), |((images, mut dx), (mut own, set)): ((Range<usize>, _), (_, &mut [T]))| {
                let (first, pixels, mut memory) = (images.start, s.h * s.w * s.c, Aligned::default());
                let of_sample = |(n, images): (usize, Range<usize>)| {
                    let w = match shared {
                        Some(w) => w,
                        None => self.backward_panel(&w.as_slice()[n * s.weights()..][..s.weights()], &mut memory),
                    };
                    let at = images.start - first;
                    let dx = dx.as_deref_mut().map(|dx: &mut [T]| &mut dx[at * pixels..][..images.len() * pixels]);
                    let own = own.as_deref_mut().map(|own: &mut [T]| &mut own[at * s.weights()..][..s.weights()]);
                    set.fill(T::zero());
                    let (dw, own) = match own {
                        Some(own) if straight => (Some(own), None),
                        own => (want.w.then_some(&mut *set), own),
                    };
                    let task = BackwardTask { s, x: loader, dy: gradient, w, images, dx, dw };
                    let sums = match self.path {
                        Path::Pointwise => dispatch(pointwise::Backward(task)),
                        Path::Depthwise => {
                            dispatch(depthwise::Backward(task.reading(depthwise::Map(loader, Sums::zeros(s.c)))))
                        }
                        Path::Winograd => dispatch(winograd::Backward(task)),
                        _ => dispatch(dense::Backward(task)),
                    };
                    if let Some(own) = own {
                        unpack(set, own);
                    }
                    sums
                };
                self.by_sample(images, 1).map(of_sample).collect::<Vec<_>>()
            });
        if let Some(dx) = dx {
            grads.dx = Some(MaskedGrad { dy: dx, sums: total(sums.into_iter().flatten(), loader) });
        }
        match &mut dw {
            Some(dw) if s.n == 0 => dw.as_mut_slice().fill(T::zero()),
            Some(dw) if !s.per_sample => {
                let (sum, others) = sets.as_mut_slice().split_at_mut(of_kernels);
                split(sum, of_kernels, 1, |range, sum| {
                    others.chunks_exact(of_kernels).for_each(|set| add(sum, &set[range.clone()]));
                });
                unpack(sum, dw.as_mut_slice());
            }
            _ => {}
        }
        grads.dw = dw;
        Ok(grads)
    }
}

/// What the other paths do while they write: the rectifier and the moments of finished rows.
pub(super) struct Finish<'a, T> {
    pub c: usize,
    pub y: &'a mut [T],
    pub rectifier: Rectifier,
    pub with_moments: bool,
}

impl<T: Real> Kernel<T> for Finish<'_, T> {
    type Output = RowMoments<T>;

    #[inline(always)]
    fn run<V: Vector<T>>(self) -> RowMoments<T> {
        let mut moments = RowMoments::none(self.c);
        if self.rectifier != Rectifier::Identity {
            let [low, high] = self.rectifier.bounds::<T>();
            // A NaN is neither below nor above.
            self.y.iter_mut().for_each(|y| {
                *y = if *y < low {
                    low
                } else if *y > high {
                    high
                } else {
                    *y
                }
            });
        }
        if self.with_moments {
            const BLOCK: usize = 64; // pixels summed in `T`
            self.y.chunks(BLOCK * self.c).for_each(|y| moments.add::<V>(y, self.c));
        }
        moments
    }
}

/// `sum += values`.
pub(super) fn add<T: Real>(sum: &mut [T], values: &[T]) {
    sum.iter_mut().zip(values).for_each(|(sum, &value)| *sum += value);
}

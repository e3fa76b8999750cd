//! Which path computes a convolution, and how its work is split over threads.

use std::ops::Range;

use super::{Options, PendingConvGrads, Sizes, Want, columns, dense, depthwise, pointwise};
use crate::aligned::Aligned;
use crate::kernels::batch_norm::BatchStats;
use crate::kernels::moments::{Moments, RowMoments, Sums};
use crate::kernels::pending::{GradLoader, Loader, MaskedGrad, Pending, PendingGrad, Rectifier, statistics, total};
use crate::kernels::tile::{Start, from_transposed_panel, panel, panel_row, transposed_panel};
use crate::parallel::{PASS, PIECES, parts_mut, ranges, run_tasks};
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
    /// A product that reads patches where they lie.
    Dense,
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
        } else if s.geo.groups == 1 {
            Path::Dense
        } else {
            Path::Columns
        }
    }
    // ANCHOR_END: path
}

/// The kernels in the order in which a path reads them, one set for all samples or one for each.
#[derive(Clone, Copy)]
pub(super) struct Panels<'a, T> {
    pub memory: &'a [T],
    /// Elements of a sample's set; 0 where all share one.
    pub each: usize,
}

impl<'a, T> Panels<'a, T> {
    #[inline(always)]
    pub fn of(&self, n: usize) -> &'a [T] {
        &self.memory[n * self.each..]
    }
}

/// Gradients of kernels in the same order.
pub(super) struct PanelsMut<'a, T> {
    memory: &'a mut [T],
    each: usize,
}

impl<T> PanelsMut<'_, T> {
    #[inline(always)]
    pub fn of(&mut self, n: usize) -> &mut [T] {
        &mut self.memory[n * self.each..]
    }
}

/// The bias in whole vectors, for all samples or one for each.
#[derive(Clone, Copy)]
pub(super) enum Bias<'a, T> {
    None,
    Of { memory: &'a [T], each: usize },
}

impl<'a, T> Bias<'a, T> {
    /// What a product starts from.
    #[inline(always)]
    pub fn start(&self, n: usize) -> Start<T> {
        match self {
            Bias::None => Start::Zero,
            Bias::Of { .. } => Start::Bias(self.values(n).as_ptr()),
        }
    }

    #[inline(always)]
    pub fn values(&self, n: usize) -> &'a [T] {
        match self {
            Bias::None => &[],
            Bias::Of { memory, each } => &memory[n * each..],
        }
    }
}

/// Some rows of a forward pass, counted over the batch.
pub(super) struct ForwardTask<'a, T: Real> {
    pub s: &'a Sizes,
    pub x: &'a Loader<'a, T>,
    pub panels: Panels<'a, T>,
    pub bias: Bias<'a, T>,
    pub rectifier: Rectifier,
    pub rows: Range<usize>,
    /// The rows of the output.
    pub y: &'a mut [T],
    /// Whether the moments of the output are wanted.
    pub with_moments: bool,
}

/// Some images of a backward pass.
pub(super) struct BackwardTask<'a, T: Real> {
    pub s: &'a Sizes,
    pub x: &'a Loader<'a, T>,
    pub dy: &'a GradLoader<'a, T>,
    pub panels: Panels<'a, T>,
    pub images: Range<usize>,
    /// The images of `dx`, if wanted.
    pub dx: Option<&'a mut [T]>,
    /// The sum over the images, or one set an image; zero before.
    pub dw: Option<PanelsMut<'a, T>>,
}

/// A convolution ready to run: its sizes and its path.
pub(super) struct Plan {
    s: Sizes,
    path: Path,
}

impl Plan {
    pub fn new(s: Sizes) -> Self {
        Plan { s, path: Path::of(&s) }
    }

    /// Multiply-adds of (conv.1).
    fn work(&self) -> usize {
        let s = &self.s;
        (s.n * s.oh * s.ow).saturating_mul(s.weights())
    }

    /// The kernels of every sample, packed by `pack`.
    fn pack<T: Real>(&self, w: &[T], pack: impl Fn(&[T]) -> Aligned<T> + Sync + Send) -> (Aligned<T>, usize) {
        if !self.s.per_sample {
            return (pack(w), 0);
        }
        let each = pack(&w[..self.s.weights()]).len();
        let mut memory = Aligned::zeros(each * self.s.n);
        let sets = w.chunks_exact(self.s.weights()).zip(memory.chunks_exact_mut(each.max(1))).collect();
        run_tasks(sets, PASS * w.len(), |(w, set): (&[T], &mut [T])| set.copy_from_slice(&pack(w)));
        (memory, each)
    }

    /// The kernels as the forward pass reads them.
    fn forward_panels<T: Real>(&self, w: &[T]) -> (Aligned<T>, usize) {
        let s = &self.s;
        match self.path {
            Path::Depthwise => self.pack(w, |w| depthwise::tap_major(s, w)),
            _ => self.pack(w, |w| transposed_panel(w, s.o, s.taps())),
        }
    }

    /// The kernels as (conv.3) reads them.
    fn backward_panels<T: Real>(&self, w: &[T]) -> (Aligned<T>, usize) {
        let s = &self.s;
        match self.path {
            Path::Depthwise => self.pack(w, |w| depthwise::tap_major(s, w)),
            Path::Dense => self.pack(w, |w| dense::turned_panel(s, w)),
            _ => self.pack(w, |w| panel(w, s.c)),
        }
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
        let rows = ranges(s.n * s.oh, PIECES);
        let parts = parts_mut(y.as_mut_slice(), &rows, s.ow * s.o);
        let tasks = rows.iter().cloned().zip(parts).collect();
        let moments: Vec<Moments> = if self.path == Path::Columns {
            let x = x.make();
            run_tasks(tasks, self.work(), |(rows, y)| {
                columns::forward(s, x.as_slice(), w, b, rows, y);
                dispatch(Finish { c: s.o, y, rectifier, with_moments }).finish()
            })
        } else {
            let (panels, each) = self.forward_panels(w);
            let panels = Panels { memory: &panels, each };
            let row = panel_row(s.o);
            let padded = b.map(|b| panel(b, s.o));
            let bias = match &padded {
                None => Bias::None,
                Some(memory) => Bias::Of { memory, each: if s.per_sample { row } else { 0 } },
            };
            let x = &x.loader();
            run_tasks(tasks, self.work(), |(rows, y)| {
                let task = ForwardTask { s, x, panels, bias, rectifier, rows, y, with_moments };
                match self.path {
                    Path::Pointwise => dispatch(pointwise::Forward(task)).finish(),
                    Path::Depthwise => dispatch(depthwise::Forward(task)).finish(),
                    _ => dispatch(dense::Forward(task)).finish(),
                }
            })
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
        let by_columns = self.path == Path::Columns || (self.path == Path::Dense && !dense::turns(s));
        let made = (want.b || by_columns).then(|| dy.clone().make());
        let mut grads = PendingConvGrads { dx: None, dw: None, db: None };
        if let (true, Some(dy)) = (want.b, &made) {
            let db = columns::grad_b(s, dy.as_slice());
            let shape: &[usize] = if s.per_sample { &[s.n, s.o] } else { &[s.o] };
            grads.db = Some(Tensor::from_memory(shape, db)?);
        }
        if let (true, true, Some(dy)) = (want.x, by_columns, &made) {
            let mut dx = Tensor::zeros(x.z.shape());
            columns::grad_x(s, dy.as_slice(), w.as_slice(), dx.as_mut_slice());
            grads.dx = Some(MaskedGrad::of(x, dx)?);
        }
        if self.path == Path::Columns {
            if let (true, Some(dy)) = (want.w, &made) {
                let dw = columns::grad_w(s, x.make().as_slice(), dy.as_slice());
                grads.dw = Some(Tensor::from_memory(w.shape(), dw)?);
            }
            return Ok(grads);
        }
        let want_x = want.x && !by_columns;
        if !want_x && !want.w {
            return Ok(grads);
        }
        let (panels, each) = if want_x { self.backward_panels(w.as_slice()) } else { (Aligned::default(), 0) };
        let panels = Panels { memory: &panels, each };
        let of_kernels = match self.path {
            Path::Depthwise => s.weights(),
            _ => s.taps() * panel_row(s.o),
        };
        let images = ranges(s.n, (PARTIALS / of_kernels.max(1)).clamp(4, PIECES));
        let mut dx = want_x.then(|| Tensor::any(x.z.shape()));
        let dxs: Vec<Option<&mut [T]>> = match &mut dx {
            Some(dx) => parts_mut(dx.as_mut_slice(), &images, s.h * s.w * s.c).into_iter().map(Some).collect(),
            None => images.iter().map(|_| None).collect(),
        };
        let (loader, gradient) = (&x.loader(), &dy.loader());
        let tasks = images.into_iter().zip(dxs).collect();
        let parts = run_tasks(tasks, self.work(), |(images, dx)| {
            let sets = if s.per_sample { images.len() } else { 1 };
            let mut memory = if want.w { Aligned::zeros(sets * of_kernels) } else { Aligned::default() };
            let dw = want.w.then_some(PanelsMut { memory: &mut memory, each: of_kernels });
            let task = BackwardTask { s, x: loader, dy: gradient, panels, images, dx, dw };
            let sums = match self.path {
                Path::Pointwise => dispatch(pointwise::Backward(task)),
                Path::Depthwise => dispatch(depthwise::Backward(task)),
                _ => dispatch(dense::Backward(task)),
            };
            (sums, memory)
        });
        let (sums, kernels): (Vec<Sums>, Vec<Aligned<T>>) = parts.into_iter().unzip();
        if let Some(dx) = dx {
            grads.dx = Some(MaskedGrad { dy: dx, sums: total(sums, loader) });
        }
        if want.w {
            let unpack = |panel: &[T], w: &mut [T]| match self.path {
                Path::Depthwise => w.copy_from_slice(&depthwise::channel_major(s, panel)),
                _ => from_transposed_panel(panel, s.o, s.taps(), w),
            };
            let mut dw = Tensor::any(w.shape());
            if s.per_sample {
                let sets = kernels.iter().flat_map(|sets| sets.chunks_exact(of_kernels));
                let tasks = sets.zip(dw.as_mut_slice().chunks_exact_mut(s.weights())).collect();
                run_tasks(tasks, PASS * w.len(), |(set, dw)| unpack(set, dw));
            } else {
                let mut kernels = kernels.into_iter();
                let mut sum = kernels.next().unwrap_or_else(|| Aligned::zeros(of_kernels));
                kernels.for_each(|part| add(&mut sum, &part));
                unpack(&sum, dw.as_mut_slice());
            }
            grads.dw = Some(dw);
        }
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
            self.y.chunks(BLOCK * self.c).for_each(|y| moments.add::<V>(y));
        }
        moments
    }
}

/// `sum += values`.
pub(super) fn add<T: Real>(sum: &mut [T], values: &[T]) {
    sum.iter_mut().zip(values).for_each(|(sum, &value)| *sum += value);
}

//! What a site needs of its input and its output's gradient: dM_b = Σ_p dy_b (x_b − μ_b)ᵀ and g_b = Σ_p dy_b, gathered in
//! a pass over both, or by the consumer of the output while it makes the gradient.

#![allow(unsafe_code, reason = "products take raw pointers")]

use std::ops::Range;

use super::{PendingSite, Sizes, Task, block, blocks, join_parts};
use crate::aligned::Aligned;
use crate::kernels::ahead::{Ahead, Stretch};
use crate::kernels::pending::{GradLoader, Loader, Pending, PendingGrad, Rectifier};
use crate::kernels::tile::{Chunk, Product, Start, add_rows, panel_row};
use crate::parallel::run_tasks;
use crate::simd::{Kernel, Vector, dispatch};
use crate::{Error, Real, Result, Tensor};

/// dM_b and g_b of all samples.
#[derive(Clone, Debug)]
pub struct Correlations<T: Real>(Vec<Correlation<T>>);

/// dM_b as a panel `[Cout, C]`, and g_b; of a sample, or of a part of it.
#[derive(Clone, Debug)]
pub(crate) struct Correlation<T: Real> {
    b: usize,
    pub(super) dm: Aligned<T>,
    pub(super) g: Vec<f64>,
}

impl<T: Real> Correlations<T> {
    /// In one pass over the site's input and the gradient.
    fn of(x: &Pending<T>, moments: &Tensor<T>, dy: &PendingGrad<T>, s: &Sizes) -> Self {
        let (loader, gradient) = (&x.loader(), &dy.loader());
        let parts = run_tasks(Task::all(s.samples, s.positions), s.count() * s.c * s.o, |task| {
            dispatch(Correlate { x: loader, moments: moments.as_slice(), dy: gradient, task })
        });
        Correlations::join(parts.into_iter().flatten())
    }

    /// What the consumer of `y` has gathered while it made the gradient, or a pass over `dy` does.
    ///
    /// # Errors
    /// [`Error::Shape`] if `dy` has not the shape of `y`, [`Error::Invalid`] if what is given is of another site.
    pub(super) fn given_or_of(given: Option<Self>, y: &PendingSite<T>, dy: &PendingGrad<T>, s: &Sizes) -> Result<Self> {
        const OP: &str = "folded_backward";
        if dy.dy.shape() != y.shape() {
            return Err(Error::shape(OP, "dy", format!("{:?}", y.shape()), dy.dy.shape()));
        }
        match given {
            Some(given) if !given.fit(s) => Err(Error::invalid(OP, "the correlations are of another site")),
            Some(given) => Ok(given),
            None => {
                let (x, moments) = y.input();
                Ok(Self::of(x, moments, dy, s))
            }
        }
    }

    /// Of consecutive parts.
    pub(crate) fn join(parts: impl IntoIterator<Item = Correlation<T>>) -> Self {
        Correlations(join_parts(parts.into_iter().map(|part| (part.b, part)), |sum, part| {
            sum.dm.iter_mut().zip(&part.dm).for_each(|(a, b)| *a += *b);
            sum.g.iter_mut().zip(&part.g).for_each(|(a, b)| *a += b);
        }))
    }

    /// Whether they are of a site of these sizes.
    fn fit(&self, s: &Sizes) -> bool {
        let fits = |of: &Correlation<T>| of.g.len() == s.o && of.dm.len() == s.o * panel_row(s.c);
        self.0.len() == s.samples && self.0.iter().all(fits)
    }

    /// g_b of some samples, a row each.
    pub(super) fn sums(&self, samples: Range<usize>) -> Vec<T> {
        self.0[samples].iter().flat_map(|of| &of.g).map(|&g| T::of(g)).collect()
    }

    /// Those of sample `b`.
    pub(super) fn of_sample(&self, b: usize) -> &Correlation<T> {
        &self.0[b]
    }
}

/// Adds up dM_b and g_b of the samples that it is shown, one after the other.
pub(crate) struct Correlator<T: Real> {
    done: Vec<Correlation<T>>,
}

impl<T: Real> Correlator<T> {
    pub fn new() -> Self {
        Correlator { done: Vec::new() }
    }

    /// Adds pixels of sample `b`, of C and Cout channels: `centred` is x_b − μ_b as a panel, the rows of `dy` lie `dy_row`
    /// apart and have the sums `g`. Asks for the `R` stretches that will be read on the way.
    // ANCHOR: correlate
    #[inline(always)]
    pub fn add<V: Vector<T>, const R: usize>(
        &mut self,
        [c, o]: [usize; 2],
        b: usize,
        centred: &[T],
        (dy, dy_row): (&[T], usize),
        g: &[T],
        reads: [Stretch<T>; R],
    ) {
        let c_row = panel_row(c);
        if self.done.last().is_none_or(|of| of.b != b) {
            self.done.push(Correlation { b, dm: Aligned::zeros(o * c_row), g: vec![0.0; o] });
        }
        let of = self.done.last_mut().expect("pushed above");
        of.g.iter_mut().zip(g).for_each(|(sum, g)| *sum += g.f64());
        let pixels = centred.len() / c_row;
        assert!(dy.len() >= pixels * dy_row && dy_row >= o);
        let product = Product {
            rows: o,
            columns: c,
            a_row: 1,
            a_step: dy_row,
            b_row: c_row,
            start: Start::Output,
            out: of.dm.as_mut_ptr(),
            out_row: c_row,
            rectifier: Rectifier::Identity,
        };
        // SAFETY: `dy` and `centred` hold the pixels, `dm` Cout rows.
        unsafe {
            let ahead = Ahead::new(product.steps::<V>(pixels), reads, []);
            product.run_asking::<V, R, 0>(&[Chunk { a: dy.as_ptr(), b: centred.as_ptr(), k: pixels }], ahead);
        }
    }
    // ANCHOR_END: correlate

    /// The sums of all samples shown.
    pub fn finish(self) -> Vec<Correlation<T>> {
        self.done
    }
}

/// A pass over the pixels of a task.
struct Correlate<'a, T: Real> {
    x: &'a Loader<'a, T>,
    /// μ_b and C_b of all samples.
    moments: &'a [T],
    dy: &'a GradLoader<'a, T>,
    task: Task,
}

impl<T: Real> Kernel<T> for Correlate<'_, T> {
    type Output = Vec<Correlation<T>>;

    #[inline(always)]
    fn run<V: Vector<T>>(self) -> Self::Output {
        let Correlate { x, moments, dy, task } = self;
        let (c, o) = (x.c, dy.c);
        let (c_row, o_row, step) = (panel_row(c), panel_row(o), block(c, o));
        let (mut centred, mut dz) = (Aligned::zeros(step * c_row), Aligned::zeros(step * o_row));
        let (mut correlator, mut g) = (Correlator::new(), Aligned::zeros(o_row));
        for (b, pixels) in task.0 {
            let mean = &moments[b * (c + c * c)..][..c];
            for block in blocks(pixels, step) {
                x.load::<V>(block.start, block.len(), Some(mean), &mut centred, c_row);
                dy.load::<V>(block.start, block.len(), &mut dz, o_row);
                g.fill(T::zero());
                add_rows::<T, V>(&mut g, &dz[..block.len() * o_row]);
                let [one, other] = dy.ahead(block.start, block.len());
                let reads = [x.ahead(block.start, block.len()), one, other];
                correlator.add::<V, 3>([c, o], b, &centred[..block.len() * c_row], (&dz, o_row), &g, reads);
            }
        }
        correlator.finish()
    }
}

//! Mean and covariance of every sample, and the pass back from their gradients to the map.

#![allow(unsafe_code, reason = "products take raw pointers")]

use std::ops::Range;

use super::{Task, block, blocks, grouped, join_parts};
use crate::aligned::Aligned;
use crate::kernels::ahead::{Ahead, Stretch};
use crate::kernels::moments::{Sums, at_least_zero};
use crate::kernels::pending::{GradLoader, Loader, MaskedGrad, Pending, PendingGrad, Rectifier, total};
use crate::kernels::tile::{Chunk, Product, Start, add_rows, panel_row};
use crate::parallel::{parts_mut, run_tasks};
use crate::simd::{Kernel, Vector, dispatch};
use crate::{Error, Real, Result, Tensor};

/// μ_b and C_b, a row a sample: `[S, C + C·C]`, the mean first. S is N, or 1 where the batch counts as one sample.
///
/// # Shapes
/// `x [N,C,H,W]` → `[N, C + C·C]` or `[1, C + C·C]`.
///
/// # Errors
/// [`Error::Shape`] if the rank is not 4, [`Error::Invalid`] if there is no pixel.
pub fn sample_moments<T: Real>(x: &Pending<T>, per_sample: bool) -> Result<Tensor<T>> {
    const OP: &str = "sample_moments";
    let [n, c, h, w] = x.z.dims(OP, "x")?;
    let (samples, positions) = grouped(n, h * w, per_sample);
    if samples * positions == 0 || c == 0 {
        return Err(Error::invalid(OP, format!("a map of shape {:?} has no moments", x.z.shape())));
    }
    let loader = &x.loader();
    let work = x.z.len() * c;
    let parts = run_tasks(Task::all(samples, positions), work, |task| dispatch(Gather { loader, task }));
    let of_sample = join_parts(parts.into_iter().flatten(), |all, part| all.join(&part));
    let mut rows = Vec::with_capacity(samples * (c + c * c));
    for of in of_sample {
        rows.extend(of.mean.iter().chain(&of.covariance).map(|&v| T::of(v)));
    }
    Tensor::from_memory([samples, c + c * c], rows)
}

/// Pixels whose products are summed up in `T`, then in f64: channels that are nearly alike leave few digits of a covariance.
const SUMMED: usize = 512;

/// Moments of some pixels.
struct Moments {
    count: f64,
    mean: Vec<f64>,
    covariance: Vec<f64>,
}

impl Moments {
    /// Takes in other pixels: the covariance grows by the product of the distances between the means.
    fn join(&mut self, other: &Moments) {
        let c = self.mean.len();
        let count = self.count + other.count;
        let (own, theirs) = (self.count / count, other.count / count);
        let distance: Vec<f64> = other.mean.iter().zip(&self.mean).map(|(a, b)| a - b).collect();
        for i in 0..c {
            for j in 0..c {
                let at = i * c + j;
                let within = own * self.covariance[at] + theirs * other.covariance[at];
                self.covariance[at] = within + own * theirs * distance[i] * distance[j];
            }
            self.mean[i] += theirs * distance[i];
        }
        self.count = count;
    }
}

/// The moments of each sample, gathered around its first pixel.
struct Gather<'a, T: Real> {
    loader: &'a Loader<'a, T>,
    task: Task,
}

impl<T: Real> Kernel<T> for Gather<'_, T> {
    type Output = Vec<(usize, Moments)>;

    #[inline(always)]
    fn run<V: Vector<T>>(self) -> Self::Output {
        match self.loader.c {
            16 if V::KNOWS => self.samples::<V>(16),
            c => self.samples::<V>(c),
        }
    }
}

impl<T: Real> Gather<'_, T> {
    // ANCHOR: gather_moments
    #[inline(always)]
    fn samples<V: Vector<T>>(self, c: usize) -> Vec<(usize, Moments)> {
        let (row, loader) = (panel_row(c), self.loader.of_channels(c));
        let (mut pivot, mut made) = (Aligned::zeros(row), Aligned::zeros(block(c, c) * row));
        let (mut squares, mut sums) = (Aligned::zeros(c * row), Aligned::zeros(row));
        let (mut total, mut total_sums) = (vec![0.0; c * row], vec![0.0; row]);
        let mut of_samples = Vec::with_capacity(self.task.0.len());
        for (b, pixels) in self.task.0 {
            let count = pixels.len() as f64;
            loader.load::<V>(pixels.start, 1, None, &mut pivot, row);
            total.fill(0.0);
            total_sums.fill(0.0);
            for summed in blocks(pixels, SUMMED) {
                squares.fill(T::zero());
                sums.fill(T::zero());
                for block in blocks(summed, block(c, c)) {
                    loader.load::<V>(block.start, block.len(), Some(&pivot[..c]), &mut made, row);
                    add_rows::<T, V>(&mut sums, &made[..block.len() * row]);
                    let product = Product {
                        rows: c,
                        columns: c,
                        a_row: 1,
                        a_step: row,
                        b_row: row,
                        start: Start::Output,
                        out: squares.as_mut_ptr(),
                        out_row: row,
                        rectifier: Rectifier::Identity,
                    };
                    // SAFETY: `made` holds the block's rows, `squares` C rows.
                    unsafe {
                        let reads = [loader.ahead(block.start, block.len())];
                        let ahead = Ahead::new(product.steps::<V>(block.len()), reads, []);
                        product.run_asking::<V, 1, 0>(
                            &[Chunk { a: made.as_ptr(), b: made.as_ptr(), k: block.len() }],
                            ahead,
                        );
                    }
                }
                total.iter_mut().zip(&squares[..]).for_each(|(total, sum)| *total += sum.f64());
                total_sums.iter_mut().zip(&sums[..]).for_each(|(total, sum)| *total += sum.f64());
            }
            let distance: Vec<f64> = total_sums[..c].iter().map(|sum| sum / count).collect();
            let mut covariance = Vec::with_capacity(c * c);
            for i in 0..c {
                let squares = total[i * row..][..c].iter().zip(&distance);
                covariance.extend(squares.map(|(square, d)| square / count - distance[i] * d));
                covariance[i * c + i] = at_least_zero(covariance[i * c + i]);
            }
            let mean = distance.iter().zip(&pivot).map(|(d, pivot)| pivot.f64() + d).collect();
            of_samples.push((b, Moments { count, mean, covariance }));
        }
        of_samples
    }
    // ANCHOR_END: gather_moments
}

/// What the site has left to be done to the map's gradient once the gradients of all moments are there.
#[derive(Clone, Debug)]
pub struct MomentsGrad<T: Real> {
    /// dy `[N,Cout,H,W]`, behind the site's rectifier.
    pub dy: PendingGrad<T>,
    /// M_b as panels `[S, Cout, C]`.
    pub(super) maps: Tensor<T>,
    /// M_bᵀ g_b as panels `[S, C]`.
    pub(super) drift: Aligned<T>,
}

/// (ft.8): one pass over `dy` and `x`. `grad` is the gradient of [`sample_moments`]; `site` comes from
/// [`folded_backward`](super::folded_backward), and without it the map has been read by nobody else.
///
/// # Errors
/// [`Error::Shape`] if the shapes disagree.
pub fn sample_moments_backward<T: Real>(
    x: &Pending<T>,
    moments: &Tensor<T>,
    grad: &Tensor<T>,
    site: Option<&MomentsGrad<T>>,
) -> Result<MaskedGrad<T>> {
    const OP: &str = "sample_moments_backward";
    let [n, c, h, w] = x.z.dims(OP, "x")?;
    let [samples, _] = grad.dims(OP, "grad")?;
    if grad.shape() != moments.shape() || samples == 0 || moments.shape()[1] != c + c * c {
        return Err(Error::shape(OP, "grad", format!("{:?}", moments.shape()), grad.shape()));
    }
    let positions = n * h * w / samples;
    let gradient = site.map(|site| site.dy.loader());
    let o = gradient.as_ref().map_or(0, |dy| dy.c);
    let mut dx = Tensor::any(x.z.shape());
    let tasks = Task::all(samples, positions);
    let pixels: Vec<Range<usize>> = tasks.iter().map(Task::pixels).collect();
    let parts = parts_mut(dx.as_mut_slice(), &pixels, c);
    let loader = &x.loader();
    let spread = |(task, dx)| {
        dispatch(Spread {
            x: loader,
            moments: moments.as_slice(),
            grad: grad.as_slice(),
            site: gradient.as_ref().zip(site),
            per_position: T::of(1.0 / positions as f64),
            task,
            dx,
        })
    };
    let sums = run_tasks(tasks.into_iter().zip(parts).collect(), x.z.len() * (c + o), spread);
    Ok(MaskedGrad { dy: dx, sums: total(sums, loader) })
}

/// (ft.8), sample by sample.
struct Spread<'a, T: Real> {
    x: &'a Loader<'a, T>,
    /// μ_b and C_b of all samples, and their gradients.
    moments: &'a [T],
    grad: &'a [T],
    /// dy, and the site that has read the map.
    site: Option<(&'a GradLoader<'a, T>, &'a MomentsGrad<T>)>,
    /// 1/P.
    per_position: T,
    task: Task,
    dx: &'a mut [T],
}

impl<T: Real> Kernel<T> for Spread<'_, T> {
    type Output = Sums;

    #[inline(always)]
    fn run<V: Vector<T>>(self) -> Sums {
        let c = self.x.c;
        match [c, self.site.map_or(c, |(dy, _)| dy.c)] {
            [16, 16] if V::KNOWS => self.samples::<V>([16, 16]),
            [16, 32] if V::KNOWS => self.samples::<V>([16, 32]),
            channels => self.samples::<V>(channels),
        }
    }
}

impl<T: Real> Spread<'_, T> {
    // ANCHOR: spread
    #[inline(always)]
    fn samples<V: Vector<T>>(self, [c, o]: [usize; 2]) -> Sums {
        let Spread { x, moments, grad, site, per_position, task, dx } = self;
        let x = x.of_channels(c);
        let site = site.map(|(dy, site)| (dy.of_channels(o), site));
        let (c_row, o_row) = (panel_row(c), panel_row(o));
        let mut sums = Sums::zeros(c);
        // x − μ_b and dy side by side, so that (ft.8) is one product.
        let row = c_row + site.as_ref().map_or(0, |_| o_row);
        let mut both = Aligned::zeros(block(c, o) * row);
        // 2/P sym(dC_b) as a panel, and h_b.
        let (mut symmetric, mut h) = (Aligned::zeros(c * c_row), Aligned::zeros(c_row));
        let mut chunks = Vec::with_capacity(2);
        let first = task.pixels().start;
        for (b, pixels) in task.0 {
            let mean = &moments[b * (c + c * c)..][..c];
            let (dmean, dcov) = grad[b * (c + c * c)..][..c + c * c].split_at(c);
            for (i, symmetric) in symmetric.chunks_exact_mut(c_row).enumerate() {
                for j in 0..c {
                    symmetric[j] = per_position * (dcov[i * c + j] + dcov[j * c + i]);
                }
                let drift = site.as_ref().map_or(T::zero(), |(_, site)| site.drift[b * c_row + i]);
                h[i] = (dmean[i] - drift) * per_position;
            }
            let map = site.as_ref().map(|(_, site)| &site.maps.as_slice()[b * o * c_row..][..o * c_row]);
            for block in blocks(pixels, block(c, o)) {
                x.load::<V>(block.start, block.len(), Some(mean), &mut both, row);
                if let Some((dy, _)) = &site {
                    dy.load::<V>(block.start, block.len(), &mut both[c_row..], row);
                }
                chunks.clear();
                chunks.push(Chunk { a: both.as_ptr(), b: symmetric.as_ptr(), k: c });
                chunks.extend(map.map(|map| Chunk { a: both[c_row..].as_ptr(), b: map.as_ptr(), k: o }));
                let dx = &mut dx[(block.start - first) * c..][..block.len() * c];
                let product = Product {
                    rows: block.len(),
                    columns: c,
                    a_row: row,
                    a_step: 1,
                    b_row: c_row,
                    start: Start::Bias(h.as_ptr()),
                    out: dx.as_mut_ptr(),
                    out_row: c,
                    rectifier: Rectifier::Identity,
                };
                // SAFETY: `both` and `dx` hold the block's rows, the panels C and Cout rows, `h` whole vectors.
                unsafe {
                    let [x, after] = [x.ahead(block.start, block.len()), Stretch::after(dx)];
                    match &site {
                        Some((dy, _)) => {
                            let [one, other] = dy.ahead(block.start, block.len());
                            let ahead = Ahead::new(product.steps::<V>(c + o), [x, one, other], [after]);
                            product.run_asking::<V, 3, 1>(&chunks, ahead);
                        }
                        None => {
                            let ahead = Ahead::new(product.steps::<V>(c), [x], [after]);
                            product.run_asking::<V, 1, 1>(&chunks, ahead);
                        }
                    }
                }
                x.finish::<V>(block.start, dx, &mut sums);
            }
        }
        sums
    }
    // ANCHOR_END: spread
}

//! From dy back to the parameters, the gates and the moments: plain reverse mode on (ft.1) to (ft.7), after one pass over
//! the pixels for dM_b and g_b.
//! ```text
//! dM_b = Σ_p dy_b (x_b − μ_b)ᵀ      g_b = Σ_p dy_b
//! D_0  = Σ_b (dM_b + g_b δ_bᵀ)      dW_0 = s_0 ⊙ D_0      ds_0 = D_0 · W_0 by rows
//! ds_2 = Σ_b (dM_b · K_b by rows + g_b ⊙ (e_b − m_2))      dv_2 = −½ ds_2 γ_2 (v_2 + ε)^(−3/2)
//! dK_b = s_2 ⊙ dM_b + 2/S dv_2 ⊙ K_b C_b
//! dC_b = 1/S K_bᵀ diag(dv_2) K_b
//! de_b = s_2 ⊙ (g_b − mean_b g_b) + 2/S dv_2 ⊙ (e_b − m_2)
//! Z_b  = W_2ᵀ dK_b,  z_b = W_2ᵀ de_b      da_b = Z_b · V by rows + z_b ⊙ (V δ_b + β_1)
//! dW_2 = Σ_b (dK_b Vᵀ + de_b (V δ_b + β_1)ᵀ) diag(a_b)      dV = Σ_b diag(a_b) (Z_b + z_b δ_bᵀ)      dβ_1 = Σ_b a_b ⊙ z_b
//! dδ_b = W_0ᵀ (s_0 ⊙ g_b) + Vᵀ (a_b ⊙ z_b) + 2/S dC δ_b      dμ_b = dδ_b − mean_b dδ_b
//! ```
//! dC, the gradient of the batch's covariance, comes from s_0 and s_1 and adds dC/S to every dC_b.

#![allow(unsafe_code, reason = "products take raw pointers")]

use std::ops::Range;

use super::moments::MomentsGrad;
use super::panels::RowProducts;
use super::samples::{Samples, Second};
use super::saved::{Saved, Scale, inner};
use super::{Correlations, Folded, Layer, Site, Sizes, tensor, to_f64};
use crate::aligned::Aligned;
use crate::kernels::pending::{PendingGrad, Rectifier};
use crate::kernels::tile::{Chunk, Product, Start, panel, panel_row};
use crate::parallel::{PASS, PIECES, parts_mut, ranges, run_tasks};
use crate::simd::{Kernel, Vector, dispatch};
use crate::{Real, Result, Tensor};

/// The gradients of a convolution and its batch norm.
#[derive(Debug, Clone)]
pub struct LayerGrads<T: Real> {
    /// dW.
    pub weight: Tensor<T>,
    /// dγ.
    pub gamma: Tensor<T>,
    /// dβ.
    pub beta: Tensor<T>,
}

/// All gradients of a site but the map's own, which [`sample_moments_backward`](super::sample_moments_backward) makes of
/// `map` once every gradient of the moments has come in.
#[derive(Debug)]
pub struct FoldedGrads<T: Real> {
    /// Of the moments, `[S, C + C·C]`.
    pub moments: Tensor<T>,
    /// Of the gate, `[N, m]`; without a gate of no use.
    pub a: Tensor<T>,
    /// Of the bypass, W_1 and W_2 with their batch norms.
    pub layers: [Option<LayerGrads<T>>; 3],
    /// What is left to be done for the map.
    pub map: MomentsGrad<T>,
}

/// The gradients of [`folded_forward`](super::folded_forward). `dy` is already masked by the rectifier; who has made it may
/// have gathered the `correlations` that a pass over it would.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) if `dy` has not the shape of the output or the site another one,
/// [`Error::Invalid`](crate::Error::Invalid) if the correlations do not fit the site.
pub fn folded_backward<T: Real>(
    site: &Site<'_, T>,
    folded: &Folded<T>,
    dy: PendingGrad<T>,
    correlations: Option<Correlations<T>>,
) -> Result<FoldedGrads<T>> {
    let saved = &folded.saved;
    let s = saved.s;
    site.check("folded_backward", [s.c, s.o, s.m])?;
    let correlations = Correlations::given_or_of(correlations, &folded.y, &dy, &s)?;
    small(saved, site, &correlations, dy)
}

/// Sums over the samples that everything else waits for.
struct Totals<T> {
    /// Σ_b g_b.
    g: Vec<f64>,
    /// D_0, a panel `[Cout, C]`.
    d0: Aligned<T>,
    ds2: Vec<f64>,
}

/// Some samples' part of [`Totals`].
struct Total<'a, T: Real> {
    saved: &'a Saved<T>,
    samples: Range<usize>,
    of: &'a Correlations<T>,
}

impl<T: Real> Kernel<T> for Total<'_, T> {
    type Output = Totals<T>;

    #[inline(always)]
    fn run<V: Vector<T>>(self) -> Totals<T> {
        let Total { saved, samples, of } = self;
        let Sizes { c, o, .. } = saved.s;
        let row = panel_row(c);
        let mut totals = Totals { g: vec![0.0; o], d0: Aligned::zeros(o * row), ds2: vec![0.0; o] };
        let mut products = RowProducts::zeros(o);
        for b in samples.clone() {
            let (of, e) = (of.of_sample(b), &saved.e[b * o..][..o]);
            for i in 0..o {
                totals.g[i] += of.g[i];
                totals.ds2[i] += of.g[i] * e[i].f64();
            }
            products.add::<T, V>(&of.dm, &saved.k.as_slice()[b * o * row..][..o * row]);
            totals.d0.iter_mut().zip(&of.dm).for_each(|(d0, dm)| *d0 += *dm);
        }
        totals.ds2.iter_mut().zip(products.finish()).for_each(|(ds2, product)| *ds2 += product);
        let g = of.sums(samples.clone());
        let of_d0 = Product {
            rows: o,
            columns: row,
            a_row: 1,
            a_step: o,
            b_row: row,
            start: Start::Output,
            out: totals.d0.as_mut_ptr(),
            out_row: row,
            rectifier: Rectifier::Identity,
        };
        let delta = saved.delta[samples.start * row..].as_ptr();
        // SAFETY: g_b and δ_b have a row for each sample, D_0 has Cout rows.
        unsafe { of_d0.run::<V>(&[Chunk { a: g.as_ptr(), b: delta, k: samples.len() }]) };
        totals
    }
}

fn small<T: Real>(
    saved: &Saved<T>,
    site: &Site<'_, T>,
    of: &Correlations<T>,
    dy: PendingGrad<T>,
) -> Result<FoldedGrads<T>> {
    let s = saved.s;
    let Sizes { samples, c, o, m, .. } = s;
    let row = panel_row(c);
    let per_sample = 1.0 / samples as f64;
    let pieces = ranges(samples, PIECES);
    let add = |sum: &mut [f64], part: &[f64]| sum.iter_mut().zip(part).for_each(|(sum, part)| *sum += part);
    let add_panel = |sum: &mut [f64], part: &[T], columns: usize| {
        let rows = part.chunks_exact(panel_row(columns)).flat_map(|row| &row[..columns]);
        sum.iter_mut().zip(rows).for_each(|(sum, part)| *sum += part.f64());
    };

    let (mut sum_g, mut d0, mut ds2) = (vec![0.0; o], vec![0.0; o * c], vec![0.0; o]);
    for part in run_tasks(pieces.clone(), PASS * samples * o * c, |samples| dispatch(Total { saved, samples, of })) {
        add(&mut sum_g, &part.g);
        add(&mut ds2, &part.ds2);
        add_panel(&mut d0, &part.d0, c);
    }
    let (dgamma2, dv2) = through_scale(&site.second, saved.second(), &ds2);

    // The samples' own small matrices.
    let (mut moments, mut maps) = (Tensor::any([samples, c + c * c]), Tensor::any([samples, o, row]));
    let mut da = vec![T::zero(); samples * m];
    let mut drift = Aligned::zeros(samples * row);
    let parts = parts_mut(moments.as_mut_slice(), &pieces, c + c * c)
        .into_iter()
        .zip(parts_mut(&mut da, &pieces, m))
        .zip(parts_mut(maps.as_mut_slice(), &pieces, o * row))
        .zip(parts_mut(&mut drift, &pieces, row));
    let work = samples * o * c * (2 * m + c);
    let w2 = &panel(site.second.weight.as_slice(), m);
    let second = &Second { s: &saved.second().s, dv: &dv2, mean_g: sum_g.iter().map(|g| per_sample * g).collect() };
    let shared =
        run_tasks(pieces.iter().cloned().zip(parts).collect(), work, |(samples, (((moments, da), maps), drift))| {
            dispatch(Samples { saved, samples, w2, second, of, moments, da, maps, drift })
        });
    let (mut dw2, mut dv, mut dbeta1) = (vec![0.0; o * m], vec![0.0; m * c], vec![0.0; m]);
    for part in shared {
        add_panel(&mut dw2, &part.dw2, m);
        add_panel(&mut dv, &part.dv, c);
        add(&mut dbeta1, &to_f64(&part.dbeta1));
    }

    // (ft.2) and (ft.1) back, and dC.
    let mut dcov = vec![0.0; c * c];
    let first = saved.scales[1].as_ref().expect("the first convolution is always there");
    let grads1 = layer_grads(&site.first, first, &dv, &dbeta1, &mut dcov)?;
    let grads0 = match (&site.bypass, &saved.scales[0]) {
        (Some(layer), Some(scale)) => Some(layer_grads(layer, scale, &d0, &sum_g, &mut dcov)?),
        _ => None,
    };
    let shape = site.second.weight.shape();
    let grads2 =
        LayerGrads { weight: tensor(shape, &dw2)?, gamma: tensor(&[o], &dgamma2)?, beta: tensor(&[o], &sum_g)? };

    // δ_b and C back to the moments of each sample.
    let dcov: Vec<T> = dcov.iter().map(|&v| T::of(per_sample * v)).collect();
    let twice = panel(&dcov.iter().map(|&v| v + v).collect::<Vec<T>>(), c);
    let parts = parts_mut(moments.as_mut_slice(), &pieces, c + c * c);
    let sums = run_tasks(pieces.into_iter().zip(parts).collect(), samples * c * c, |(samples, moments)| {
        dispatch(Centre { saved, samples, dcov: &dcov, twice: &twice, moments })
    });
    let mut mean = vec![0.0; c];
    sums.iter().for_each(|sum| add(&mut mean, sum));
    for of_sample in moments.as_mut_slice().chunks_exact_mut(c + c * c) {
        of_sample.iter_mut().zip(&mean).for_each(|(d, mean)| *d -= T::of(per_sample * mean));
    }
    let map = MomentsGrad { dy, maps, drift };
    let a = Tensor::from_memory([samples, m], da)?;
    Ok(FoldedGrads { moments, a, layers: [grads0, Some(grads1), Some(grads2)], map })
}

/// s = γ/√(v + ε): dγ and dv.
fn through_scale<T: Real>(layer: &Layer<'_, T>, scale: &Scale, ds: &[f64]) -> (Vec<f64>, Vec<f64>) {
    let gamma = layer.gamma.as_slice();
    let dgamma = ds.iter().zip(&scale.per_deviation).map(|(ds, p)| ds * p).collect();
    let dvar = (0..ds.len()).map(|i| -0.5 * ds[i] * gamma[i].f64() * scale.per_deviation[i].powi(3)).collect();
    (dgamma, dvar)
}

/// A layer whose scaled weights diag(s) W have the gradient `d`, s from diag(W C Wᵀ): its gradients, and its part of dC.
pub(super) fn layer_grads<T: Real>(
    layer: &Layer<'_, T>,
    scale: &Scale,
    d: &[f64],
    dbeta: &[f64],
    dcov: &mut [f64],
) -> Result<LayerGrads<T>> {
    let (rows, w) = (dbeta.len(), to_f64(layer.weight.as_slice()));
    let c = w.len() / rows;
    let ds: Vec<f64> = w.chunks_exact(c).zip(d.chunks_exact(c)).map(|(w, d)| inner(w, d)).collect();
    let (dgamma, dvar) = through_scale(layer, scale, &ds);
    let mut dw = vec![0.0; w.len()];
    for i in 0..rows {
        let (w, wc, d) = (&w[i * c..][..c], &scale.wc[i * c..][..c], &d[i * c..][..c]);
        for j in 0..c {
            dw[i * c + j] = scale.s[i] * d[j] + 2.0 * dvar[i] * wc[j];
            let scaled = dvar[i] * w[j];
            dcov[j * c..][..c].iter_mut().zip(w).for_each(|(dcov, w)| *dcov += scaled * w);
        }
    }
    let vector = |values: &[f64]| tensor(&[rows], values);
    Ok(LayerGrads { weight: tensor(layer.weight.shape(), &dw)?, gamma: vector(&dgamma)?, beta: vector(dbeta)? })
}

/// Adds to dδ_b and dC_b of some samples what comes from dC, and gives the sums of dδ_b.
struct Centre<'a, T: Real> {
    saved: &'a Saved<T>,
    samples: Range<usize>,
    /// dC/S, and twice of it as a panel.
    dcov: &'a [T],
    twice: &'a [T],
    moments: &'a mut [T],
}

impl<T: Real> Kernel<T> for Centre<'_, T> {
    type Output = Vec<f64>;

    #[inline(always)]
    fn run<V: Vector<T>>(self) -> Vec<f64> {
        let Centre { saved, samples, dcov, twice, moments } = self;
        let c = saved.s.c;
        let row = panel_row(c);
        let to_delta = Product {
            rows: samples.len(),
            columns: c,
            a_row: row,
            a_step: 1,
            b_row: row,
            start: Start::Output,
            out: moments.as_mut_ptr(),
            out_row: c + c * c,
            rectifier: Rectifier::Identity,
        };
        let delta = saved.delta[samples.start * row..].as_ptr();
        // SAFETY: δ_b and `moments` have a row for each sample, the panel has C rows; dC is symmetric.
        unsafe { to_delta.run::<V>(&[Chunk { a: delta, b: twice.as_ptr(), k: c }]) };
        let mut sums = vec![0.0; c];
        for of_sample in moments.chunks_exact_mut(c + c * c) {
            let (ddelta, of_cov) = of_sample.split_at_mut(c);
            sums.iter_mut().zip(ddelta).for_each(|(sum, d)| *sum += d.f64());
            of_cov.iter_mut().zip(dcov).for_each(|(of_cov, &dcov)| *of_cov += dcov);
        }
        sums
    }
}

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

use super::correlate::Correlation;
use super::moments::MomentsGrad;
use super::saved::{Saved, Scale, inner};
use super::{Correlations, Folded, Layer, Site, Sizes, tensor, to_f64};
use crate::aligned::Aligned;
use crate::kernels::pending::{Pending, PendingGrad, Rectifier};
use crate::kernels::tile::{Chunk, Product, Start, add_scaled, dot, panel, panel_row};
use crate::parallel::{PASS, PIECES, parts_mut, ranges, run_tasks};
use crate::simd::{Kernel, Vector, dispatch};
use crate::{Error, Real, Result, Tensor};

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
/// [`Error::Shape`] if `dy` has not the shape of the output, [`Error::Invalid`] if the correlations do not fit the site.
pub fn folded_backward<T: Real>(
    x: &Pending<T>,
    moments: &Tensor<T>,
    site: &Site<'_, T>,
    folded: &Folded<T>,
    dy: PendingGrad<T>,
    correlations: Option<Correlations<T>>,
) -> Result<FoldedGrads<T>> {
    let saved = &folded.saved;
    let s = saved.s;
    if dy.dy.shape() != folded.y.shape() {
        return Err(Error::shape("folded_backward", "dy", format!("{:?}", folded.y.shape()), dy.dy.shape()));
    }
    if correlations.as_ref().is_some_and(|correlations| !correlations.fit(&s)) {
        return Err(Error::invalid("folded_backward", "the correlations are of another site"));
    }
    let correlations = correlations.unwrap_or_else(|| Correlations::of(x, moments, &dy, &s));
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
        for b in samples {
            let (delta, of) = (&saved.delta[b * row..][..row], of.of_sample(b));
            for i in 0..o {
                let (g, dm) = (of.g[i], &of.dm[i * row..][..row]);
                totals.g[i] += g;
                let k = &saved.k.as_slice()[(b * o + i) * row..][..row];
                totals.ds2[i] += g * saved.e[b * o + i].f64() + dot::<T, V>(dm, k).f64();
                let d0 = &mut totals.d0[i * row..][..row];
                let g = T::of(g);
                for j in 0..row {
                    d0[j] += dm[j] + g * delta[j];
                }
            }
        }
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
    let (row, m_row) = (panel_row(c), panel_row(m));
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
    let mut moments = Tensor::zeros([samples, c + c * c]);
    let (mut da, mut maps) = (vec![T::zero(); samples * m], Tensor::any([samples, o, row]));
    let mut drift = Aligned::zeros(samples * row);
    let parts = parts_mut(moments.as_mut_slice(), &pieces, c + c * c)
        .into_iter()
        .zip(parts_mut(&mut da, &pieces, m))
        .zip(parts_mut(maps.as_mut_slice(), &pieces, o * row))
        .zip(parts_mut(&mut drift, &pieces, row));
    let work = samples * o * c * (2 * m + c);
    let w2 = panel(site.second.weight.as_slice(), m);
    let shared =
        run_tasks(pieces.iter().cloned().zip(parts).collect(), work, |(samples, (((moments, da), maps), drift))| {
            let mut shared =
                Shared { dw2: Aligned::zeros(o * m_row), dv: Aligned::zeros(m * row), dbeta1: Aligned::zeros(m) };
            let mut scratch = Scratch::new(&s);
            for (at, b) in samples.enumerate() {
                dispatch(Sample {
                    saved,
                    b,
                    w2: &w2,
                    dv2: &dv2,
                    sum_g: &sum_g,
                    of: of.of_sample(b),
                    scratch: &mut scratch,
                    shared: &mut shared,
                    moments: &mut moments[at * (c + c * c)..][..c + c * c],
                    da: &mut da[at * m..][..m],
                    maps: &mut maps[at * o * row..][..o * row],
                    drift: &mut drift[at * row..][..row],
                });
            }
            shared
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
    let mut mean = vec![0.0; c];
    for (b, of_sample) in moments.as_mut_slice().chunks_exact_mut(c + c * c).enumerate() {
        let (ddelta, of_cov) = of_sample.split_at_mut(c);
        let delta = &saved.delta[b * row..][..c];
        for j in 0..c {
            add_scaled(ddelta, delta[j] + delta[j], &dcov[j * c..][..c]); // dC is symmetric
        }
        add_scaled(of_cov, T::one(), &dcov);
        mean.iter_mut().zip(&*ddelta).for_each(|(mean, d)| *mean += per_sample * d.f64());
    }
    for of_sample in moments.as_mut_slice().chunks_exact_mut(c + c * c) {
        of_sample.iter_mut().zip(&mean).for_each(|(d, mean)| *d -= T::of(*mean));
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
fn layer_grads<T: Real>(
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

/// What some samples contribute to gradients that all share: dW_2 and dV as panels, and dβ_1.
struct Shared<T> {
    dw2: Aligned<T>,
    dv: Aligned<T>,
    dbeta1: Aligned<T>,
}

/// Memory for one sample after the other; panels by the names of the equations.
struct Scratch<T> {
    dk: Aligned<T>,
    /// diag(dv_2) K_b / S.
    weighted: Aligned<T>,
    de: Vec<T>,
    /// a_b as a row of a panel.
    a: Aligned<T>,
    /// Vᵀ diag(a_b).
    vt: Aligned<T>,
    z: Aligned<T>,
    /// W_2ᵀ de_b.
    z_e: Aligned<T>,
    /// a_b ⊙ (V δ_b + β_1).
    gated_u: Aligned<T>,
    ddelta: Aligned<T>,
}

impl<T: Real> Scratch<T> {
    fn new(&Sizes { c, o, m, .. }: &Sizes) -> Self {
        let (row, m_row) = (panel_row(c), panel_row(m));
        Scratch {
            dk: Aligned::zeros(o * row),
            weighted: Aligned::zeros(o * row),
            de: vec![T::zero(); o],
            a: Aligned::zeros(m_row),
            vt: Aligned::zeros(c * m_row),
            z: Aligned::zeros(m * row),
            z_e: Aligned::zeros(m_row),
            gated_u: Aligned::zeros(m_row),
            ddelta: Aligned::zeros(row),
        }
    }
}

/// (ft.4) to (ft.7) back for one sample.
struct Sample<'a, T: Real> {
    saved: &'a Saved<T>,
    b: usize,
    /// W_2, a panel `[Cout, m]`.
    w2: &'a [T],
    dv2: &'a [f64],
    sum_g: &'a [f64],
    of: &'a Correlation<T>,
    scratch: &'a mut Scratch<T>,
    shared: &'a mut Shared<T>,
    /// dδ_b and dC_b, without what comes from dC.
    moments: &'a mut [T],
    da: &'a mut [T],
    /// M_b and M_bᵀ g_b.
    maps: &'a mut [T],
    drift: &'a mut [T],
}

impl<T: Real> Kernel<T> for Sample<'_, T> {
    type Output = ();

    // ANCHOR: small_matrices
    #[inline(always)]
    fn run<V: Vector<T>>(self) {
        let Sample { saved, b, w2, dv2, sum_g, of, scratch, shared, moments, da, maps, drift } = self;
        let Scratch { dk, weighted, de, a: padded_a, vt, z, z_e, gated_u, ddelta } = scratch;
        let Sizes { samples, c, o, m, .. } = saved.s;
        let (row, m_row) = (panel_row(c), panel_row(m));
        let per_sample = 1.0 / samples as f64;
        let (k, kc) = (&saved.k.as_slice()[b * o * row..][..o * row], &saved.kc.as_slice()[b * o * row..][..o * row]);
        let (a, u, e) = (&saved.a[b * m..][..m], &saved.u[b * m..][..m], &saved.e[b * o..][..o]);
        let delta = &saved.delta[b * row..][..row];
        ddelta.fill(T::zero());
        z_e.fill(T::zero());

        // Row by row: dK_b, diag(dv_2) K_b / S, de_b, M_b, and what g_b gives.
        for i in 0..o {
            let s2 = saved.second().s[i];
            let share = per_sample * dv2[i];
            de[i] = T::of(s2 * (of.g[i] - per_sample * sum_g[i]) + 2.0 * share * e[i].f64());
            let (g, s2, once, twice) = (T::of(of.g[i]), T::of(s2), T::of(share), T::of(2.0 * share));
            let (dm, kc, k) = (&of.dm[i * row..][..row], &kc[i * row..][..row], &k[i * row..][..row]);
            let (dk, weighted) = (&mut dk[i * row..][..row], &mut weighted[i * row..][..row]);
            for j in 0..row {
                dk[j] = s2 * dm[j] + twice * kc[j];
                weighted[j] = once * k[j];
            }
            let map = &mut maps[i * row..][..row];
            saved.map_row(b, i, s2, map);
            add_scaled(drift, g, map);
            add_scaled(ddelta, g, &saved.w0[i * row..][..row]);
        }

        // Vᵀ diag(a_b).
        padded_a[..m].copy_from_slice(a);
        for (gated, v) in vt.chunks_exact_mut(m_row).zip(saved.vt.chunks_exact(m_row)) {
            for j in 0..m_row {
                gated[j] = v[j] * padded_a[j];
            }
        }
        let (of_mean, of_cov) = moments.split_at_mut(c);
        let product = Product {
            rows: c,
            columns: c,
            a_row: 1,
            a_step: row,
            b_row: row,
            start: Start::Zero,
            out: of_cov.as_mut_ptr(),
            out_row: c,
            rectifier: Rectifier::Identity,
        };
        // SAFETY: every panel has the rows and columns that its product names.
        unsafe {
            product.run::<V>(&[Chunk { a: weighted.as_ptr(), b: k.as_ptr(), k: o }]);
            let of_z = Product { rows: m, a_step: m_row, out: z.as_mut_ptr(), out_row: row, ..product };
            of_z.run::<V>(&[Chunk { a: w2.as_ptr(), b: dk.as_ptr(), k: o }]);
            let of_w2 = Product {
                rows: o,
                columns: m,
                a_row: row,
                a_step: 1,
                b_row: m_row,
                start: Start::Output,
                out: shared.dw2.as_mut_ptr(),
                out_row: m_row,
                ..product
            };
            of_w2.run::<V>(&[Chunk { a: dk.as_ptr(), b: vt.as_ptr(), k: c }]);
        }

        // z_b = W_2ᵀ de_b, and what it gives.
        for i in 0..m {
            gated_u[i] = a[i] * u[i];
        }
        for i in 0..o {
            add_scaled(z_e, de[i], &w2[i * m_row..][..m_row]);
            add_scaled(&mut shared.dw2[i * m_row..][..m_row], de[i], gated_u);
        }
        for i in 0..m {
            let (z, v, gated) = (&z[i * row..][..row], &saved.v[i * row..][..row], a[i] * z_e[i]);
            let dv = &mut shared.dv[i * row..][..row];
            for j in 0..row {
                dv[j] += a[i] * z[j] + gated * delta[j];
                ddelta[j] += gated * v[j];
            }
            shared.dbeta1[i] += gated;
            da[i] = dot::<T, V>(z, v) + z_e[i] * u[i];
        }
        of_mean.copy_from_slice(&ddelta[..c]);
    }
    // ANCHOR_END: small_matrices
}

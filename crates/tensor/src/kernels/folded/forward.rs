//! (ft.1) to (ft.6): the small matrices of the forward pass.

#![allow(unsafe_code, reason = "products take raw pointers")]

use std::ops::Range;

use super::panels::{RowProducts, scale_rows};
use super::saved::{Saved, Scale};
use super::{Layer, PendingSite, Site, Sizes, check_moments};
use crate::aligned::Aligned;
use crate::kernels::batch_norm::BatchStats;
use crate::kernels::moments::at_least_zero;
use crate::kernels::pending::{Pending, Rectifier};
use crate::kernels::tile::{Chunk, Product, Start, panel, panel_row, transposed_panel};
use crate::parallel::{PASS, PIECES, parts_mut, ranges, run_tasks};
use crate::simd::{Kernel, Vector, dispatch};
use crate::{Real, Result, Tensor};

/// The output of a site and what its gradients need.
#[derive(Debug)]
pub struct Folded<T: Real> {
    /// y `[N,Cout,H,W]`, rectified where it is made.
    pub y: PendingSite<T>,
    /// The batch statistics of the three batch norms, as the expanded form would see them; the first is the bypass's.
    pub stats: [Option<BatchStats<T>>; 3],
    pub(super) saved: Saved<T>,
}

/// A site's output with batch statistics, (ft.1) to (ft.7), pending. `moments` are those of `x`, per sample where there is
/// a gate `a [N, m]`; the rectifier is applied to `y` as it is made.
///
/// # Shapes
/// `x [N,Cin,H,W]` → `y [N,Cout,H,W]`.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) if the shapes disagree; [`Error::Invalid`](crate::Error::Invalid) if a channel has a
/// single value, which has no variance.
pub fn folded_forward<T: Real>(
    x: &Pending<T>,
    moments: &Tensor<T>,
    site: &Site<'_, T>,
    a: Option<&Tensor<T>>,
    rectifier: Rectifier,
) -> Result<Folded<T>> {
    const OP: &str = "folded";
    let s = Sizes::check(OP, &x.z, site, a)?;
    check_moments(OP, &s, moments)?;
    s.check_count(OP)?;
    let saved = fold(s, moments, site, a);
    let y = PendingSite::new(x, moments, site, &saved, rectifier)?;
    let count = s.count();
    let [zero, one, two] = &saved.scales;
    let of = |scale: &Option<Scale>| scale.as_ref().map(|scale| scale.stats(count)).transpose();
    Ok(Folded { y, stats: [of(zero)?, of(one)?, of(two)?], saved })
}

/// (ft.1) to (ft.6).
fn fold<T: Real>(s: Sizes, moments: &Tensor<T>, site: &Site<'_, T>, a: Option<&Tensor<T>>) -> Saved<T> {
    let Sizes { samples, c, o, m, .. } = s;
    let (row, of_sample) = (panel_row(c), c + c * c);
    let per_sample = 1.0 / samples as f64;
    // μ, δ_b, C.
    let mut mu = vec![0.0; c];
    for moments in moments.as_slice().chunks_exact(of_sample) {
        mu.iter_mut().zip(moments).for_each(|(mu, mean)| *mu += per_sample * mean.f64());
    }
    let mut delta = Aligned::zeros(samples * row);
    for (delta, moments) in delta.chunks_exact_mut(row).zip(moments.as_slice().chunks_exact(of_sample)) {
        for i in 0..c {
            delta[i] = T::of(moments[i].f64() - mu[i]);
        }
    }
    let sums = run_tasks(ranges(samples, PIECES), PASS * samples * c * c, |samples| {
        dispatch(Covariance { c, samples, moments: moments.as_slice(), delta: &delta })
    });
    let mut cov = vec![0.0; c * c];
    sums.iter().for_each(|sum| cov.iter_mut().zip(sum).for_each(|(cov, sum)| *cov += per_sample * sum));

    let bypass = site.bypass.as_ref().map(|bypass| Scale::of(bypass, &mu, &cov));
    let first = Scale::of(&site.first, &mu, &cov);
    let scaled = |layer: &Layer<'_, T>, scale: &Scale| {
        let w = layer.weight.as_slice().iter().enumerate();
        panel(&w.map(|(at, w)| T::of(scale.s[at / c] * w.f64())).collect::<Vec<T>>(), c)
    };
    let v = scaled(&site.first, &first);
    let vt = {
        let w = site.first.weight.as_slice().iter().enumerate();
        transposed_panel(&w.map(|(at, w)| T::of(first.s[at / c] * w.f64())).collect::<Vec<T>>(), m, c)
    };
    let w2t = transposed_panel(site.second.weight.as_slice(), o, m);
    let w0 = match (&site.bypass, &bypass) {
        (Some(layer), Some(scale)) => scaled(layer, scale),
        _ => Aligned::zeros(o * row),
    };
    let a: Vec<T> = a.map_or_else(|| vec![T::one(); m], |a| a.as_slice().to_vec());

    // (ft.4), sample by sample.
    let mut panels = [Tensor::any([samples, o, row]), Tensor::any([samples, o, row])];
    let [k, kc] = panels.each_mut().map(Tensor::as_mut_slice);
    let (mut u, mut e) = (Aligned::zeros(samples * m), Aligned::zeros(samples * o));
    let pieces = ranges(samples, PIECES);
    let (k_parts, kc_parts) = (parts_mut(k, &pieces, o * row), parts_mut(kc, &pieces, o * row));
    let (u_parts, e_parts) = (parts_mut(&mut u, &pieces, m), parts_mut(&mut e, &pieces, o));
    let parts = k_parts.into_iter().zip(kc_parts).zip(u_parts).zip(e_parts);
    let work = samples * o * c * (m + c);
    let diagonals = run_tasks(pieces.iter().cloned().zip(parts).collect(), work, |(samples, (((k, kc), u), e))| {
        dispatch(Compose { s, samples, site, a: &a, delta: &delta, moments, v: &v, vt: &vt, w2t: &w2t, k, kc, u, e })
    });

    // (ft.5), (ft.6).
    let mut m2 = vec![0.0; o];
    e.chunks_exact(o).for_each(|e| m2.iter_mut().zip(e).for_each(|(m2, e)| *m2 += per_sample * e.f64()));
    e.chunks_exact_mut(o).for_each(|e| e.iter_mut().zip(&m2).for_each(|(e, m2)| *e = T::of(e.f64() - m2)));
    let mut v2 = vec![0.0; o];
    diagonals.iter().for_each(|d| v2.iter_mut().zip(d).for_each(|(v2, d)| *v2 += per_sample * d));
    e.chunks_exact(o).for_each(|e| v2.iter_mut().zip(e).for_each(|(v2, e)| *v2 += per_sample * e.f64() * e.f64()));
    v2.iter_mut().for_each(|v2| *v2 = at_least_zero(*v2));
    let second = Scale::new(&site.second, m2, v2, Vec::new());
    let scales = [bypass, Some(first), Some(second)];
    let [k, kc] = panels;
    Saved { s, delta, scales, a, v, w0, vt, k, kc, u, e }
}

/// Σ_b (C_b + δ_b δ_bᵀ) of some samples.
struct Covariance<'a, T> {
    c: usize,
    samples: Range<usize>,
    moments: &'a [T],
    delta: &'a [T],
}

impl<T: Real> Kernel<T> for Covariance<'_, T> {
    type Output = Vec<f64>;

    #[inline(always)]
    fn run<V: Vector<T>>(self) -> Vec<f64> {
        let Covariance { c, samples, moments, delta } = self;
        let row = panel_row(c);
        let mut sum = vec![0.0; c * c];
        for b in samples {
            let (within, delta) = (&moments[b * (c + c * c) + c..][..c * c], &delta[b * row..][..c]);
            for ((sum, within), &d) in sum.chunks_exact_mut(c).zip(within.chunks_exact(c)).zip(delta) {
                sum.iter_mut().zip(within).zip(delta).for_each(|((sum, &v), &other)| *sum += (v + d * other).f64());
            }
        }
        sum
    }
}

/// K_b, e_b and K_b C_b of some samples, (ft.4), and diag(K_b C_b K_bᵀ) added up.
struct Compose<'a, T: Real> {
    s: Sizes,
    samples: Range<usize>,
    site: &'a Site<'a, T>,
    /// a_b, δ_b, and μ_b and C_b of all samples.
    a: &'a [T],
    delta: &'a [T],
    moments: &'a Tensor<T>,
    v: &'a [T],
    /// Vᵀ and W_2ᵀ, panels `[C, m]` and `[m, Cout]`.
    vt: &'a [T],
    w2t: &'a [T],
    k: &'a mut [T],
    kc: &'a mut [T],
    u: &'a mut [T],
    e: &'a mut [T],
}

impl<T: Real> Kernel<T> for Compose<'_, T> {
    type Output = Vec<f64>;

    #[inline(always)]
    fn run<V: Vector<T>>(self) -> Vec<f64> {
        let Compose { s: Sizes { c, o, m, .. }, samples, site, a, delta, moments, v, vt, w2t, k, kc, u, e } = self;
        let row = panel_row(c);
        let (a, delta) = (&a[samples.start * m..][..samples.len() * m], &delta[samples.start * row..]);
        let (w2, beta1) = (site.second.weight.as_slice(), panel(site.first.beta.as_slice(), m));
        // V δ_b + β_1 and e_b, a row a sample.
        let of_u = Product {
            rows: samples.len(),
            columns: m,
            a_row: row,
            a_step: 1,
            b_row: panel_row(m),
            start: Start::Bias(beta1.as_ptr()),
            out: u.as_mut_ptr(),
            out_row: m,
            rectifier: Rectifier::Identity,
        };
        // SAFETY: `delta` has a row for each sample, Vᵀ has C rows, `u` is as large as `a`.
        unsafe { of_u.run::<V>(&[Chunk { a: delta.as_ptr(), b: vt.as_ptr(), k: c }]) };
        let gated_u: Vec<T> = a.iter().zip(&*u).map(|(&a, &u)| a * u).collect();
        let (start, out) = (Start::Zero, e.as_mut_ptr());
        let of_e = Product { columns: o, a_row: m, b_row: panel_row(o), start, out, out_row: o, ..of_u };
        // SAFETY: W_2ᵀ has m rows, `e` a row for each sample.
        unsafe { of_e.run::<V>(&[Chunk { a: gated_u.as_ptr(), b: w2t.as_ptr(), k: m }]) };

        let (mut gated, mut cov) = (Aligned::zeros(m * row), Aligned::zeros(c * row));
        let mut diagonal = RowProducts::zeros(o);
        let kernels = k.chunks_exact_mut(o * row).zip(kc.chunks_exact_mut(o * row));
        // ANCHOR: compose
        for ((b, a), (k, kc)) in samples.zip(a.chunks_exact(m)).zip(kernels) {
            let moments = moments.as_slice()[b * (c + c * c) + c..].chunks_exact(c);
            cov.chunks_exact_mut(row).zip(moments).for_each(|(cov, moments)| cov[..c].copy_from_slice(moments));
            scale_rows::<T, V>(v, a, &mut gated);
            let (columns, b_row) = (row, row); // with the zeros behind the channels
            let of_k = Product { rows: o, columns, a_row: m, b_row, out: k.as_mut_ptr(), out_row: row, ..of_e };
            let of_kc = Product { a_row: row, out: kc.as_mut_ptr(), ..of_k };
            // SAFETY: W_2 is Cout x m; `gated` and `cov` are panels of m and C rows, `k` and `kc` of Cout.
            unsafe {
                of_k.run::<V>(&[Chunk { a: w2.as_ptr(), b: gated.as_ptr(), k: m }]);
                of_kc.run::<V>(&[Chunk { a: k.as_ptr(), b: cov.as_ptr(), k: c }]);
            }
            diagonal.add::<T, V>(k, kc);
        }
        // ANCHOR_END: compose
        diagonal.finish()
    }
}

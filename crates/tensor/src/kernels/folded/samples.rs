//! The way back through (ft.4) to (ft.7), sample by sample: from dM_b and g_b to the gradients of W_1, W_2, the gates and
//! the moments. What is a vector a sample goes through a product for all samples of a task at once.

#![allow(unsafe_code, reason = "products take raw pointers")]

use std::ops::Range;

use super::panels::scale_columns;
use super::saved::Saved;
use super::{Correlations, Sizes};
use crate::Real;
use crate::aligned::Aligned;
use crate::kernels::pending::Rectifier;
use crate::kernels::tile::{Chunk, Product, Start, dot, panel_row};
use crate::simd::{Kernel, Vector};

/// What some samples contribute to gradients that all share: dW_2 and dV as panels, and dβ_1.
pub(super) struct Shared<T> {
    pub dw2: Aligned<T>,
    pub dv: Aligned<T>,
    pub dbeta1: Aligned<T>,
}

/// What the batch norm behind W_2 gives all samples.
pub(super) struct Second<'a> {
    pub s: &'a [f64],
    /// dv_2.
    pub dv: &'a [f64],
    /// mean_b g_b.
    pub mean_g: Vec<f64>,
}

/// (ft.4) to (ft.7) back for some samples.
pub(super) struct Samples<'a, T: Real> {
    pub saved: &'a Saved<T>,
    pub samples: Range<usize>,
    /// W_2, a panel `[Cout, m]`.
    pub w2: &'a [T],
    pub second: &'a Second<'a>,
    pub of: &'a Correlations<T>,
    /// dδ_b and dC_b, without what comes from dC.
    pub moments: &'a mut [T],
    pub da: &'a mut [T],
    /// M_b and M_bᵀ g_b.
    pub maps: &'a mut [T],
    pub drift: &'a mut [T],
}

impl<T: Real> Kernel<T> for Samples<'_, T> {
    type Output = Shared<T>;

    #[inline(always)]
    fn run<V: Vector<T>>(mut self) -> Shared<T> {
        let Sizes { samples, c, o, m, .. } = self.saved.s;
        let mut shared = Shared {
            dw2: Aligned::zeros(o * panel_row(m)),
            dv: Aligned::zeros(m * panel_row(c)),
            dbeta1: Aligned::zeros(m),
        };
        let share: Vec<f64> = self.second.dv.iter().map(|dv| dv / samples as f64).collect();
        let vectors = self.vectors::<V>(&share, &mut shared);
        self.matrices::<V>(&share, &vectors, &mut shared);
        shared
    }
}

/// What has a row a sample: g_b and z_b = W_2ᵀ de_b.
struct Vectors<T> {
    g: Vec<T>,
    z_e: Vec<T>,
}

impl<T: Real> Samples<'_, T> {
    /// dδ_b = W_0ᵀ (s_0 ⊙ g_b) + Vᵀ (a_b ⊙ z_b), and what de_b and z_b add to dW_2, dV and dβ_1: products over all samples
    /// of the task.
    #[inline(always)]
    fn vectors<V: Vector<T>>(&mut self, share: &[f64], shared: &mut Shared<T>) -> Vectors<T> {
        let Samples { saved, samples, w2, second, of, moments, .. } = self;
        let (n, Sizes { c, o, m, .. }) = (samples.len(), saved.s);
        let (row, m_row) = (panel_row(c), panel_row(m));
        let (a, u) = (&saved.a[samples.start * m..][..n * m], &saved.u[samples.start * m..][..n * m]);
        let mut de = vec![T::zero(); n * o];
        for (de, b) in de.chunks_exact_mut(o).zip(samples.clone()) {
            let (e, g) = (&saved.e[b * o..][..o], &of.of_sample(b).g);
            for i in 0..o {
                de[i] = T::of(second.s[i] * (g[i] - second.mean_g[i]) + 2.0 * share[i] * e[i].f64());
            }
        }
        let (g, mut z_e) = (of.sums(samples.clone()), vec![T::zero(); n * m]);
        let of_z_e = Product {
            rows: n,
            columns: m,
            a_row: o,
            a_step: 1,
            b_row: m_row,
            start: Start::Zero,
            out: z_e.as_mut_ptr(),
            out_row: m,
            rectifier: Rectifier::Identity,
        };
        // SAFETY: `de` and `z_e` have a row for each sample, the panel has Cout.
        unsafe { of_z_e.run::<V>(&[Chunk { a: de.as_ptr(), b: w2.as_ptr(), k: o }]) };
        let gated_z: Vec<T> = a.iter().zip(&z_e).map(|(&a, &z)| a * z).collect();
        let mut gated_u = Aligned::zeros(n * m_row);
        for (at, gated) in gated_u.chunks_exact_mut(m_row).enumerate() {
            for i in 0..m {
                gated[i] = a[at * m + i] * u[at * m + i];
                shared.dbeta1[i] += gated_z[at * m + i];
            }
        }
        let through_w0 = Product { columns: c, b_row: row, out: moments.as_mut_ptr(), out_row: c + c * c, ..of_z_e };
        let through_v = Product { a_row: m, start: Start::Output, ..through_w0 };
        let (rows, a_row, out) = (m, 1, shared.dv.as_mut_ptr());
        let to_v = Product { rows, a_row, a_step: m, out, out_row: row, ..through_v };
        let (rows, columns, out) = (o, m, shared.dw2.as_mut_ptr());
        let to_w2 = Product { rows, columns, a_step: o, b_row: m_row, out, out_row: m_row, ..to_v };
        let delta = saved.delta[samples.start * row..].as_ptr();
        // SAFETY: every operand has a row for each sample, `moments` too; the panels have Cout and m rows.
        unsafe {
            through_w0.run::<V>(&[Chunk { a: g.as_ptr(), b: saved.w0.as_ptr(), k: o }]);
            through_v.run::<V>(&[Chunk { a: gated_z.as_ptr(), b: saved.v.as_ptr(), k: m }]);
            to_v.run::<V>(&[Chunk { a: gated_z.as_ptr(), b: delta, k: n }]);
            to_w2.run::<V>(&[Chunk { a: de.as_ptr(), b: gated_u.as_ptr(), k: n }]);
        }
        Vectors { g, z_e }
    }

    /// dC_b, da_b, M_b and M_bᵀ g_b sample by sample, and what dK_b adds to dW_2 and dV.
    // ANCHOR: small_matrices
    #[inline(always)]
    fn matrices<V: Vector<T>>(self, share: &[f64], vectors: &Vectors<T>, shared: &mut Shared<T>) {
        let Samples { saved, samples, w2, second, of, moments, da, maps, drift } = self;
        let Sizes { c, o, m, .. } = saved.s;
        let (row, m_row, of_sample) = (panel_row(c), panel_row(m), c + c * c);
        let [s2, dv2] = [second.s, share].map(|of| of.iter().map(|&v| T::of(v)).collect::<Vec<T>>());
        let (mut dk, mut weighted) = (Aligned::zeros(o * row), Aligned::zeros(o * row));
        let (mut gated_v, mut z) = (Aligned::zeros(c * m_row), Aligned::zeros(m * row));
        let mut padded_a = Aligned::zeros(m_row);
        for (at, b) in samples.enumerate() {
            let [k, kc] = [&saved.k, &saved.kc].map(|of| &of.as_slice()[b * o * row..][..o * row]);
            let (map, drift) = (&mut maps[at * o * row..][..o * row], &mut drift[at * row..][..row]);
            let rows = OfRows { s2: &s2, dv2: &dv2, g: &vectors.g[at * o..][..o], k, kc };
            rows.run::<V>(&of.of_sample(b).dm, &saved.w0, [&mut dk, &mut weighted, map, drift]);
            let (a, u, z_e) = (&saved.a[b * m..][..m], &saved.u[b * m..][..m], &vectors.z_e[at * m..][..m]);
            padded_a[..m].copy_from_slice(a);
            scale_columns::<T, V>(&saved.vt, &padded_a, &mut gated_v);
            let of_cov = Product {
                rows: c,
                columns: c,
                a_row: 1,
                a_step: row,
                b_row: row,
                start: Start::Zero,
                out: moments[at * of_sample + c..][..c * c].as_mut_ptr(),
                out_row: c,
                rectifier: Rectifier::Identity,
            };
            let of_z = Product { rows: m, a_step: m_row, out: z.as_mut_ptr(), out_row: row, ..of_cov };
            let (start, out) = (Start::Output, shared.dw2.as_mut_ptr());
            let (rows, columns, a_row, a_step) = (o, m, row, 1);
            let to_w2 = Product { rows, columns, a_row, a_step, b_row: m_row, start, out, out_row: m_row, ..of_cov };
            // SAFETY: every panel has the rows and columns that its product names.
            unsafe {
                of_cov.run::<V>(&[Chunk { a: weighted.as_ptr(), b: k.as_ptr(), k: o }]);
                of_z.run::<V>(&[Chunk { a: w2.as_ptr(), b: dk.as_ptr(), k: o }]);
                to_w2.run::<V>(&[Chunk { a: dk.as_ptr(), b: gated_v.as_ptr(), k: c }]);
            }
            for i in 0..m {
                let (z, v) = (&z[i * row..][..row], &saved.v[i * row..][..row]);
                da[at * m + i] = dot::<T, V>(z, v) + z_e[i] * u[i];
                shared.dv[i * row..][..row].iter_mut().zip(z).for_each(|(dv, &z)| *dv += a[i] * z);
            }
        }
    }
    // ANCHOR_END: small_matrices
}

/// What K_b, K_b C_b and dM_b give row by row.
struct OfRows<'a, T> {
    /// s_2, dv_2/S and g_b.
    s2: &'a [T],
    dv2: &'a [T],
    g: &'a [T],
    k: &'a [T],
    kc: &'a [T],
}

impl<T: Real> OfRows<'_, T> {
    /// dK_b, diag(dv_2) K_b / S and M_b = diag(s_0) W_0 + diag(s_2) K_b, panels like the operands, and M_bᵀ g_b.
    #[inline(always)]
    fn run<V: Vector<T>>(&self, dm: &[T], w0: &[T], [dk, weighted, map, drift]: [&mut [T]; 4]) {
        let OfRows { s2, dv2, g, k, kc } = *self;
        let (o, row) = (s2.len(), drift.len());
        assert!(row.is_multiple_of(V::LANES) && [dv2.len(), g.len()] == [o; 2]);
        assert!([k.len(), kc.len(), dm.len(), w0.len(), dk.len(), weighted.len(), map.len()] == [o * row; 7]);
        for at in (0..row).step_by(V::LANES) {
            let mut sum = V::splat(T::zero());
            for i in 0..o {
                let [s2, dv2, g] = [s2, dv2, g].map(|of| V::splat(of[i]));
                let at = i * row + at;
                // SAFETY: every panel has Cout rows of whole vectors.
                unsafe {
                    let [k, kc, dm, w0] = [k, kc, dm, w0].map(|of| V::load(of.as_ptr().add(at)));
                    kc.mul_add(dv2.add(dv2), dm.mul(s2)).store(dk.as_mut_ptr().add(at));
                    k.mul(dv2).store(weighted.as_mut_ptr().add(at));
                    let m = k.mul_add(s2, w0);
                    m.store(map.as_mut_ptr().add(at));
                    sum = m.mul_add(g, sum);
                }
            }
            // SAFETY: a row is whole vectors.
            unsafe { sum.store(drift.as_mut_ptr().add(at)) };
        }
    }
}

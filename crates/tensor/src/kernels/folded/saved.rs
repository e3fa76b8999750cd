//! What the forward pass leaves for (ft.7) and for the way back: nothing as large as a map.

use super::{Layer, Sizes, to_f64};
use crate::aligned::Aligned;
use crate::kernels::batch_norm::BatchStats;
use crate::kernels::gemm::{Accumulate, Mat, MatMut, gemm};
use crate::kernels::moments::at_least_zero;
use crate::{Real, Result, Tensor};

/// The small matrices. Panels are rows of whole vectors.
#[derive(Debug)]
pub(super) struct Saved<T: Real> {
    pub s: Sizes,
    /// δ_b, panels `[S, C]`.
    pub delta: Aligned<T>,
    pub scales: [Option<Scale>; 3],
    /// a_b `[S, m]`.
    pub a: Vec<T>,
    /// V, a panel `[m, C]`, and diag(s_0) W_0, a panel `[Cout, C]` of zeros without a bypass.
    pub v: Aligned<T>,
    pub w0: Aligned<T>,
    /// Vᵀ, a panel `[C, m]`.
    pub vt: Aligned<T>,
    /// K_b and K_b C_b, panels `[S, Cout, C]`.
    pub k: Tensor<T>,
    pub kc: Tensor<T>,
    /// V δ_b + β_1 `[S, m]`, and e_b − m_2 `[S, Cout]`.
    pub u: Aligned<T>,
    pub e: Aligned<T>,
}

/// The batch norm behind t = W x: diag(W C Wᵀ) and what follows from it.
#[derive(Debug, Clone)]
pub(super) struct Scale {
    pub mean: Vec<f64>,
    pub var: Vec<f64>,
    /// 1/√(var + ε).
    pub per_deviation: Vec<f64>,
    /// s = γ/√(var + ε).
    pub s: Vec<f64>,
    /// W C `[rows, C]`, where var comes from it.
    pub wc: Vec<f64>,
}

impl Scale {
    pub fn new<T: Real>(layer: &Layer<'_, T>, mean: Vec<f64>, var: Vec<f64>, wc: Vec<f64>) -> Self {
        let per_deviation: Vec<f64> = var.iter().map(|var| 1.0 / (var + layer.eps).sqrt()).collect();
        let s = per_deviation.iter().zip(layer.gamma.as_slice()).map(|(p, gamma)| p * gamma.f64()).collect();
        Scale { mean, var, per_deviation, s, wc }
    }

    /// (ft.1), (ft.2): from the moments of x.
    pub fn of<T: Real>(layer: &Layer<'_, T>, mu: &[f64], cov: &[f64]) -> Self {
        let c = mu.len();
        let w = to_f64(layer.weight.as_slice());
        let rows = w.len() / c;
        let mut wc = vec![0.0; rows * c];
        gemm(
            Mat::row_major(&w, rows, c),
            Mat::row_major(cov, c, c),
            Accumulate::Set,
            MatMut::row_major(&mut wc, rows, c),
        );
        let mean = w.chunks_exact(c).map(|w| inner(w, mu)).collect();
        let var = w.chunks_exact(c).zip(wc.chunks_exact(c)).map(|(w, wc)| at_least_zero(inner(w, wc))).collect();
        Scale::new(layer, mean, var, wc)
    }

    pub fn stats<T: Real>(&self, count: usize) -> Result<BatchStats<T>> {
        let vector = |values: &[f64]| super::tensor(&[values.len()], values);
        Ok(BatchStats { mean: vector(&self.mean)?, var: vector(&self.var)?, count })
    }
}

pub(super) fn inner(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

impl<T: Real> Saved<T> {
    pub fn second(&self) -> &Scale {
        self.scales[2].as_ref().expect("the second convolution is always there")
    }
}

//! The kernel of the compact form, generated per sample (paper equation 2.5; its gradients: paper 2.7).

use gatefold_tensor::kernels::compose::{self, ComposeGrads, ComposeWant};
use gatefold_tensor::{Real, Result, Tensor};

use crate::{Op, Sink, Tape, Var};

/// The base kernel is not saved: its gradient is the sum of the samples' own.
struct ComposeKernels<T: Real> {
    w2: Tensor<T>,
    a: Option<Tensor<T>>,
    w1: Tensor<T>,
    groups: usize,
}

impl<T: Real> Op<T> for ComposeKernels<T> {
    fn name(&self) -> &'static str {
        "compose_kernels"
    }

    fn backward(self: Box<Self>, dy: Tensor<T>, dx: &mut Sink<'_, T>) -> Result<()> {
        let want = ComposeWant { base: dx.wants(0), w2: dx.wants(1), a: dx.wants(2), w1: dx.wants(3) };
        let ComposeGrads { dbase, dw2, da, dw1 } =
            compose::compose_kernels_backward(&self.w2, self.a.as_ref(), &self.w1, self.groups, &dy, want)?;
        dx.add_all([dbase, dw2, da, dw1])
    }
}

impl<T: Real> Var<T> {
    /// `W[n,o,c,u,v] = W_b[o,c,u,v] + Σ_j W_2[o,j] a[n,j] W_1[j,c,u,v]`, j over the kernels of o's group; `self` is `W_1`.
    ///
    /// # Shapes
    /// `W_1 [m,I,k,k]`, `W_2 [O,m/g,1,1]`, `a [N,m]`, `W_b [O,I,k,k]` → `[N·O,I,k,k]`, or `[O,I,k,k]` without `a`.
    /// # Errors
    /// As [`compose::compose_kernels`].
    pub fn compose_kernels(
        &self,
        w2: &Var<T>,
        a: Option<&Var<T>>,
        base: Option<&Var<T>>,
        groups: usize,
    ) -> Result<Var<T>> {
        let (w1, of_a) = (self.value(), a.map(Var::value));
        let y = compose::compose_kernels(base.map(Var::value), w2.value(), of_a, w1, groups)?;
        Ok(Tape::record(y, &[base, Some(w2), a, Some(self)], || ComposeKernels {
            w2: w2.value().clone(),
            a: of_a.cloned(),
            w1: w1.clone(),
            groups,
        }))
    }
}

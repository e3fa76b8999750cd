//! Composed kernels by their definition. j runs over the m/g kernels of o's group, written `j` below when it counts
//! inside the group and `J` when it counts over all of them; without gates a = 1.
//! ```text
//! W[n,o,c,u,v]  = W_b[o,c,u,v] + Σ_j W_2[o,j] · a[n,J] · W_1[J,c,u,v]            (compose.1)
//! dW_b[o,c,u,v] = Σ_n G[n,o,c,u,v]                                               (compose.2)
//! dW_1[J,c,u,v] = Σ_n a[n,J] Σ_o W_2[o,j] · G[n,o,c,u,v]                         (compose.3)
//! dW_2[o,j]     = Σ_n a[n,J] Σ_{c,u,v} G[n,o,c,u,v] · W_1[J,c,u,v]               (compose.4)
//! da[n,J]       = Σ_{o,c,u,v} W_2[o,j] · G[n,o,c,u,v] · W_1[J,c,u,v]             (compose.5)
//! ```

use ndarray::ArrayD;

use crate::kernels::compose::{ComposeGrads, Sizes};
use crate::{Real, Result, Tensor};

/// Calls `visit(n, o, j, J, [c, u, v])` for every product in (compose.1).
fn for_each_product(s: &Sizes, mut visit: impl FnMut(usize, usize, usize, usize, [usize; 3])) {
    let ([i, kh, kw], mg) = (s.kernel, s.m / s.groups);
    for n in 0..s.n {
        for o in 0..s.o {
            for j in 0..mg {
                for tap in 0..i * kh * kw {
                    visit(n, o, j, o / (s.o / s.groups) * mg + j, [tap / (kh * kw), tap / kw % kh, tap % kw]);
                }
            }
        }
    }
}

fn tensor<T: Real>(values: &ArrayD<T>) -> Tensor<T> {
    Tensor::from_fn(values.shape(), |index| values[index])
}

/// (compose.1): `base [O,I,kh,kw]` or none, `w2 [O,m/g,1,1]`, `a [N,m]` or none, `w1 [m,I,kh,kw]` → `[N·O,I,kh,kw]`.
///
/// # Errors
/// As [`kernels::compose::compose_kernels`](crate::kernels::compose::compose_kernels).
// ANCHOR: compose_kernels_reference
pub fn compose_kernels<T: Real>(
    base: Option<&Tensor<T>>,
    w2: &Tensor<T>,
    a: Option<&Tensor<T>>,
    w1: &Tensor<T>,
    groups: usize,
) -> Result<Tensor<T>> {
    let s = Sizes::check("compose_kernels", w2, a, w1, groups)?;
    base.map_or(Ok(()), |base| s.check_base("compose_kernels", base))?;
    let (w2, w1) = (w2.view(), w1.view());
    let mut w = ArrayD::zeros(&s.composed()[..]);
    if let Some(base) = base {
        w.indexed_iter_mut().for_each(|(at, w)| *w = base.view()[[at[0] % s.o, at[1], at[2], at[3]]]);
    }
    for_each_product(&s, |n, o, j, all_j, [c, u, v]| {
        let a = a.map_or(T::one(), |a| a.view()[[n, all_j]]);
        w[[n * s.o + o, c, u, v]] += w2[[o, j, 0, 0]] * a * w1[[all_j, c, u, v]];
    });
    Ok(tensor(&w))
}
// ANCHOR_END: compose_kernels_reference

/// (compose.2) to (compose.5): every gradient there is, from the gradient `dw` of the composed kernels.
///
/// # Errors
/// As [`kernels::compose::compose_kernels_backward`](crate::kernels::compose::compose_kernels_backward).
pub fn compose_kernels_backward<T: Real>(
    w2: &Tensor<T>,
    a: Option<&Tensor<T>>,
    w1: &Tensor<T>,
    groups: usize,
    dw: &Tensor<T>,
) -> Result<ComposeGrads<T>> {
    let s = Sizes::check("compose_kernels_backward", w2, a, w1, groups)?;
    s.check_dw("compose_kernels_backward", dw)?;
    let [i, kh, kw] = s.kernel;
    let mut dbase = ArrayD::<T>::zeros(&[s.o, i, kh, kw][..]);
    let (mut dw2, mut dw1) = (ArrayD::<T>::zeros(&w2.shape()[..]), ArrayD::<T>::zeros(&w1.shape()[..]));
    let mut da = ArrayD::<T>::zeros(&[s.n, s.m][..]);
    let (w2, w1, g) = (w2.view(), w1.view(), dw.view());
    g.indexed_iter().for_each(|(at, &g)| dbase[[at[0] % s.o, at[1], at[2], at[3]]] += g);
    for_each_product(&s, |n, o, j, all_j, [c, u, v]| {
        let gate = a.map_or(T::one(), |a| a.view()[[n, all_j]]);
        let (g, w2, w1) = (g[[n * s.o + o, c, u, v]], w2[[o, j, 0, 0]], w1[[all_j, c, u, v]]);
        dw1[[all_j, c, u, v]] += gate * w2 * g;
        dw2[[o, j, 0, 0]] += gate * g * w1;
        da[[n, all_j]] += w2 * g * w1;
    });
    Ok(ComposeGrads {
        dbase: Some(tensor(&dbase)),
        dw2: Some(tensor(&dw2)),
        da: a.map(|_| tensor(&da)),
        dw1: Some(tensor(&dw1)),
    })
}

//! The compact form of a re-parameterised convolution: its kernels, composed of factors (MDConv, equation (2.5) of the
//! paper's mathematics; MAConv, where A = I). j runs over the m/g kernels of o's group.
//! ```text
//! W[n,o,c,u,v]  = W_b[o,c,u,v] + Σ_j W_2[o,j] · a[n,j] · W_1[j,c,u,v]            (compose.1)
//! dW_b[o,c,u,v] = Σ_n G[n,o,c,u,v]                                               (compose.2)
//! dW_1[j,c,u,v] = Σ_n a[n,j] Σ_o W_2[o,j] · G[n,o,c,u,v]                         (compose.3)
//! dW_2[o,j]     = Σ_n a[n,j] · Q[n,o,j],  Q[n,o,j] = Σ_{c,u,v} G[n,o,c,u,v] · W_1[j,c,u,v]   (compose.4)
//! da[n,j]       = Σ_o W_2[o,j] · Q[n,o,j]                                        (compose.5)
//! ```
//! G is the gradient of the composed kernels. In matrices, for each group: `W = W_b + W_2·A·W_1`, the diagonal A
//! multiplied into the columns of W_2, so that a sample costs one small product.

#[cfg(test)]
mod tests;

use std::ops::Range;

use rayon::prelude::*;

use crate::kernels::blocks::gemm_parallel;
use crate::kernels::gemm::{Accumulate, Mat, MatMut, gemm};
use crate::parallel::sum_pieces;
use crate::{Error, Real, Result, Tensor};

/// Which gradients of [`compose_kernels`] a caller wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ComposeWant {
    /// The base kernels'.
    pub base: bool,
    /// The second factor's.
    pub w2: bool,
    /// The gates'.
    pub a: bool,
    /// The first factor's.
    pub w1: bool,
}

impl ComposeWant {
    /// All four gradients.
    pub const ALL: ComposeWant = ComposeWant { base: true, w2: true, a: true, w1: true };
}

/// The gradients of [`compose_kernels`], each in the shape of what it belongs to; `None` where not wanted.
#[derive(Clone, Debug)]
pub struct ComposeGrads<T: Real> {
    /// The base kernels', `[O, I, kh, kw]`.
    pub dbase: Option<Tensor<T>>,
    /// The second factor's, `[O, m/g, 1, 1]`.
    pub dw2: Option<Tensor<T>>,
    /// The gates', `[N, m]`; `None` too where there are no gates.
    pub da: Option<Tensor<T>>,
    /// The first factor's, `[m, I, kh, kw]`.
    pub dw1: Option<Tensor<T>>,
}

/// Every extent of one composition, checked against each other.
#[derive(Clone, Copy)]
pub(crate) struct Sizes {
    /// Samples: 1 without gates.
    pub n: usize,
    pub o: usize,
    pub m: usize,
    pub groups: usize,
    /// `[I, kh, kw]`.
    pub kernel: [usize; 3],
}

impl Sizes {
    /// The only place where the shapes of a composition are checked.
    pub fn check<T: Real>(
        op: &'static str,
        w2: &Tensor<T>,
        a: Option<&Tensor<T>>,
        w1: &Tensor<T>,
        groups: usize,
    ) -> Result<Self> {
        let ([o, mg, one, uno], [m, i, kh, kw]) = (w2.dims(op, "w2")?, w1.dims(op, "w1")?);
        if groups == 0 || o % groups > 0 || m % groups > 0 {
            let message = format!("{groups} groups do not divide {o} output channels and {m} intermediate channels");
            return Err(Error::invalid(op, message));
        }
        if [mg, one, uno] != [m / groups, 1, 1] {
            return Err(Error::shape(
                op,
                "w2",
                format!("[O, {}, 1, 1] for w1 {:?}", m / groups, w1.shape()),
                w2.shape(),
            ));
        }
        if o == 0 || w1.is_empty() {
            return Err(Error::shape(op, "w1", "[m, I, kh, kw] without an empty axis, for O ≥ 1", w1.shape()));
        }
        let n = match a {
            None => 1,
            Some(a) => match a.dims(op, "a")? {
                [n, gates] if gates == m => n,
                _ => return Err(Error::shape(op, "a", format!("[N, {m}]"), a.shape())),
            },
        };
        Ok(Sizes { n, o, m, groups, kernel: [i, kh, kw] })
    }

    /// `[N·O, I, kh, kw]`.
    pub fn composed(&self) -> [usize; 4] {
        let [i, kh, kw] = self.kernel;
        [self.n * self.o, i, kh, kw]
    }

    /// Checks an argument with the shape of one sample's kernels.
    pub fn check_base<T: Real>(&self, op: &'static str, base: &Tensor<T>) -> Result<()> {
        let [i, kh, kw] = self.kernel;
        let expected = [self.o, i, kh, kw];
        if base.shape()[..] == expected {
            Ok(())
        } else {
            Err(Error::shape(op, "base", format!("{expected:?}"), base.shape()))
        }
    }

    /// Checks the gradient of the composed kernels.
    pub fn check_dw<T: Real>(&self, op: &'static str, dw: &Tensor<T>) -> Result<()> {
        let expected = self.composed();
        if dw.shape()[..] == expected {
            Ok(())
        } else {
            Err(Error::shape(op, "dw", format!("{expected:?}"), dw.shape()))
        }
    }

    fn og(&self) -> usize {
        self.o / self.groups
    }

    fn mg(&self) -> usize {
        self.m / self.groups
    }

    /// Elements of one kernel.
    fn taps(&self) -> usize {
        self.kernel.iter().product()
    }

    /// One group's rows of W_2, `[O/g, m/g]`.
    fn w2<'a, T>(&self, w2: &'a [T], group: usize) -> Mat<'a, T> {
        Mat::row_major(&w2[group * self.og() * self.mg()..], self.og(), self.mg())
    }

    /// One group's kernels of W_1, `[m/g, I·kh·kw]`.
    fn w1<'a, T>(&self, w1: &'a [T], group: usize) -> Mat<'a, T> {
        Mat::row_major(&w1[group * self.mg() * self.taps()..], self.mg(), self.taps())
    }

    /// W_2·A: the columns of W_2 scaled by one sample's gates, into `scaled`.
    fn scale_columns<T: Real>(&self, w2: &[T], a: Option<&[T]>, scaled: &mut Vec<T>) {
        scaled.clear();
        scaled.extend_from_slice(w2);
        let Some(a) = a else { return };
        for (o, row) in scaled.chunks_exact_mut(self.mg()).enumerate() {
            let a = &a[o / self.og() * self.mg()..];
            row.iter_mut().zip(a).for_each(|(w2, &a)| *w2 *= a);
        }
    }
}

/// Sample n's gates.
fn gates<T: Real>(a: Option<&Tensor<T>>, n: usize, m: usize) -> Option<&[T]> {
    a.map(|a| &a.as_slice()[n * m..][..m])
}

/// Kernels composed of factors, (compose.1), one set for each sample.
///
/// # Shapes
/// `base [O,I,kh,kw]` or none, `w2 [O,m/g,1,1]`, `a [N,m]` or none (A = I), `w1 [m,I,kh,kw]` → `[N·O,I,kh,kw]`,
/// or `[O,I,kh,kw]` without `a`.
///
/// # Errors
/// [`Error::Shape`] or [`Error::Invalid`] if the shapes disagree or the groups divide neither m nor O.
// ANCHOR: compose_kernels
pub fn compose_kernels<T: Real>(
    base: Option<&Tensor<T>>,
    w2: &Tensor<T>,
    a: Option<&Tensor<T>>,
    w1: &Tensor<T>,
    groups: usize,
) -> Result<Tensor<T>> {
    const OP: &str = "compose_kernels";
    let s = Sizes::check(OP, w2, a, w1, groups)?;
    base.map_or(Ok(()), |base| s.check_base(OP, base))?;
    let mut w = Tensor::zeros(s.composed());
    w.as_mut_slice().par_chunks_mut(s.o * s.taps()).enumerate().for_each_init(Vec::new, |scaled, (n, w)| {
        s.scale_columns(w2.as_slice(), gates(a, n, s.m), scaled);
        if let Some(base) = base {
            w.copy_from_slice(base.as_slice());
        }
        for (group, w) in w.chunks_exact_mut(s.og() * s.taps()).enumerate() {
            let w = MatMut::row_major(w, s.og(), s.taps());
            gemm_parallel(s.w2(scaled, group), s.w1(w1.as_slice(), group), Accumulate::Add, w); // W += W_2·A·W_1
        }
    });
    Ok(w)
}
// ANCHOR_END: compose_kernels

/// The gradients of [`compose_kernels`] from the gradient `dw` of its result, (compose.2) to (compose.5), as far as
/// wanted. `da` is `None` where there are no gates.
///
/// # Shapes
/// As [`compose_kernels`]; `dw` as its result.
///
/// # Errors
/// As [`compose_kernels`], and if `dw` has not the result's shape.
pub fn compose_kernels_backward<T: Real>(
    w2: &Tensor<T>,
    a: Option<&Tensor<T>>,
    w1: &Tensor<T>,
    groups: usize,
    dw: &Tensor<T>,
    want: ComposeWant,
) -> Result<ComposeGrads<T>> {
    const OP: &str = "compose_kernels_backward";
    let s = Sizes::check(OP, w2, a, w1, groups)?;
    s.check_dw(OP, dw)?;
    let want = ComposeWant { a: want.a && a.is_some(), ..want };
    let of_samples = |samples: Range<usize>| {
        let mut sums = Sums::zeros(&s, want);
        let (mut scaled, mut q) = (Vec::new(), vec![T::zero(); s.o * s.mg()]);
        for n in samples {
            let g = &dw.as_slice()[n * s.o * s.taps()..][..s.o * s.taps()];
            sums.add_sample(&s, w2.as_slice(), gates(a, n, s.m), w1.as_slice(), g, want, &mut scaled, &mut q);
        }
        sums
    };
    let sums = sum_pieces(s.n, of_samples, Sums::append).unwrap_or_else(|| Sums::zeros(&s, want));
    let [i, kh, kw] = s.kernel;
    Ok(ComposeGrads {
        dbase: want.base.then(|| Tensor::from_memory([s.o, i, kh, kw], sums.dbase)).transpose()?,
        dw2: want.w2.then(|| Tensor::from_memory(w2.shape(), sums.dw2)).transpose()?,
        da: want.a.then(|| Tensor::from_memory([s.n, s.m], sums.da)).transpose()?,
        dw1: want.w1.then(|| Tensor::from_memory(w1.shape(), sums.dw1)).transpose()?,
    })
}

/// The gradients summed over some samples, and the gates' of each of them in order. Empty where not wanted.
struct Sums<T> {
    dbase: Vec<T>,
    dw2: Vec<T>,
    da: Vec<T>,
    dw1: Vec<T>,
}

impl<T: Real> Sums<T> {
    fn zeros(s: &Sizes, want: ComposeWant) -> Self {
        let zeros = |wanted: bool, len: usize| vec![T::zero(); if wanted { len } else { 0 }];
        Sums {
            dbase: zeros(want.base, s.o * s.taps()),
            dw2: zeros(want.w2, s.o * s.mg()),
            da: Vec::new(),
            dw1: zeros(want.w1, s.m * s.taps()),
        }
    }

    // ANCHOR: compose_kernels_backward
    /// Adds the sample whose composed kernels have the gradient `g`. `scaled` and `q` are scratch.
    fn add_sample(
        &mut self,
        s: &Sizes,
        w2: &[T],
        a: Option<&[T]>,
        w1: &[T],
        g: &[T],
        want: ComposeWant,
        scaled: &mut Vec<T>,
        q: &mut [T],
    ) {
        add(&mut self.dbase, if want.base { g } else { &[] }); // (compose.2)
        let of_group = |group: usize| Mat::row_major(&g[group * s.og() * s.taps()..], s.og(), s.taps());
        if want.w1 {
            s.scale_columns(w2, a, scaled);
            for (group, dw1) in self.dw1.chunks_exact_mut(s.mg() * s.taps()).enumerate() {
                let dw1 = MatMut::row_major(dw1, s.mg(), s.taps());
                gemm(s.w2(scaled, group).t(), of_group(group), Accumulate::Add, dw1); // (compose.3)
            }
        }
        if want.w2 || want.a {
            for (group, q) in q.chunks_exact_mut(s.og() * s.mg()).enumerate() {
                gemm(of_group(group), s.w1(w1, group).t(), Accumulate::Set, MatMut::row_major(q, s.og(), s.mg()));
            }
        }
        let first = self.da.len();
        self.da.resize(first + if want.a { s.m } else { 0 }, T::zero());
        for (o, (q, w2)) in q.chunks_exact(s.mg()).zip(w2.chunks_exact(s.mg())).enumerate() {
            let j = o / s.og() * s.mg(); // the first intermediate channel of o's group
            if want.a {
                // (compose.5)
                self.da[first + j..].iter_mut().zip(w2).zip(q).for_each(|((da, &w2), &q)| *da += w2 * q);
            }
            if want.w2 {
                let dw2 = &mut self.dw2[o * s.mg()..][..s.mg()];
                match a {
                    // (compose.4)
                    Some(a) => dw2.iter_mut().zip(&a[j..]).zip(q).for_each(|((dw2, &a), &q)| *dw2 += a * q),
                    None => add(dw2, q),
                }
            }
        }
    }
    // ANCHOR_END: compose_kernels_backward

    /// Takes in the sums of the samples that follow.
    fn append(&mut self, next: Self) {
        add(&mut self.dbase, &next.dbase);
        add(&mut self.dw2, &next.dw2);
        add(&mut self.dw1, &next.dw1);
        self.da.extend(next.da);
    }
}

fn add<T: Real>(sum: &mut [T], values: &[T]) {
    sum.iter_mut().zip(values).for_each(|(sum, &value)| *sum += value);
}

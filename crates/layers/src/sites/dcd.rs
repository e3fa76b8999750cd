//! Dynamic convolution by decomposition, DCD (Li et al., ICLR 2021, arXiv 2103.08756): channel attention on the static
//! kernel, and a dynamic map in a latent space of L channels beside it.
//!
//! ```text
//! W(x) = Λ(x) W_0 + P Φ(x) Qᵀ                                                (dcd.1)  the idea
//! v = BN_1(Qᵀ * x),  y = BN(Λ ⊙ (W_0 * x) + P (BN_2(Φ v) + v))                (dcd.2)  the authors' code, on features
//! e = D pool(x),  e ← e ⊙ h(E e),  Φ = reshape(F_Φ e, L × L),  Λ = h(F_Λ e)   (dcd.3)  h(t) = ReLU6(t + 3)/3
//! ```
//! The sizes are the authors', of their MobileNetV2 for 1x1 and of their ResNet's basic block for larger kernels, where Q has
//! the stride of the site and acts on its central tap:
//! ```text
//! 1x1  p = 4 (pooled to 2x2), d = 8 if Cin < Cout, else p = 1, d = 2;  L = min(p·Cin/d, Cout/d), d doubled while
//!      L² > 2·p·Cin, then L ≥ 4;  S = max(4, max(p·Cin, L²)/squeeze)
//! k    p = 4;  L = √(4·Cin);  S = max(4·Cin, L²)/16                            (dcd.4), everything rounded down
//! ```
//! Folds to one kernel for each sample,
//! ```text
//! W'(x) = s Λ W_0 + s P M(x) Q',  b(x) = s P (M q' + t),  M = S_2 Φ + I        (dcd.5)
//! ```
//! with BN_1 in Q' and q', BN_2 as S_2 and t, and s and the shift of the batch norm behind.

use gatefold_autograd::Var;
use gatefold_tensor::kernels::conv::Geometry;
use gatefold_tensor::kernels::pending::Rectifier;
use gatefold_tensor::kernels::pool::Window;
use gatefold_tensor::plan::{Builder, Map};
use gatefold_tensor::{Error, Real, Result, Tensor};
use serde::{Deserialize, Serialize};

use super::generated::{FoldedGenerated, Generator, Planned};
use super::{Cost, FoldError, Folded, Kind, Site, SiteSpec, TrainedSite};
use crate::{Activation, BatchNorm2d, Conv2d, Cx, Init, Module, Param, Walk, fold, walk_fields};

/// The options of DCD.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Dcd {
    /// By what the head of a 1x1 site squeezes: 8 by default in the authors' code, 16 in their MobileNetV2 runs. Larger
    /// kernels always squeeze by 16.
    pub squeeze: usize,
}

impl Default for Dcd {
    fn default() -> Self {
        Dcd { squeeze: 8 }
    }
}

/// (dcd.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Sizes {
    /// Means a channel along each side: 2 or 1.
    pool: usize,
    /// L.
    latent: usize,
    /// S.
    squeezed: usize,
}

impl Sizes {
    fn pointwise(cin: usize, cout: usize, squeeze: usize) -> Self {
        let (pool, mut d) = if cin < cout { (2, 8) } else { (1, 2) };
        let features = pool * pool * cin;
        let latent = |d: usize| (features / d).min(cout / d);
        while latent(d) * latent(d) > 2 * features {
            d *= 2;
        }
        let latent = latent(d).max(4);
        Sizes { pool, latent, squeezed: (features.max(latent * latent) / squeeze).max(4) }
    }

    fn spatial(cin: usize) -> Self {
        let latent = (4 * cin).isqrt();
        // At least 1, where so few channels would leave nothing.
        Sizes { pool: 2, latent, squeezed: ((4 * cin).max(latent * latent) / 16).max(1) }
    }
}

impl Kind for Dcd {
    fn check(&self) -> Result<(), String> {
        if self.squeeze == 0 {
            return Err("the squeeze 0 is not positive".to_owned());
        }
        Ok(())
    }

    fn build<T: Real>(&self, spec: SiteSpec, init: &Init) -> Result<Box<dyn TrainedSite<T>>> {
        let invalid = |why| Error::invalid("dcd", why);
        let SiteSpec { cin, cout, kernel, padding, dilation, groups, .. } = spec;
        if groups > 1 {
            return Err(invalid(format!("the decomposition has no groups, the place has {groups}")));
        }
        if kernel % 2 == 0 || 2 * padding != dilation * (kernel - 1) {
            let why =
                format!("its latent map lies on the central tap: {kernel} x {kernel} with padding {padding} has none");
            return Err(invalid(why));
        }
        let Sizes { pool, latent, squeezed } =
            if kernel == 1 { Sizes::pointwise(cin, cout, self.squeeze) } else { Sizes::spatial(cin) };
        let place = |cin, cout| SiteSpec::pointwise(cin, cout);
        let layer = |o: usize, i: usize| Projection { weight: Param::new(init.normal([o, i], 0.01)) };
        Ok(Box::new(Decomposed {
            spec,
            conv: Conv2d::new(&spec, false, init),
            conv_q: Conv2d::new(&SiteSpec { stride: spec.stride, ..place(cin, latent) }, false, init),
            conv_p: Conv2d::new(&place(latent, cout), false, init),
            bn1: BatchNorm2d::new(latent),
            bn2: BatchNorm2d::new(latent),
            head: Head {
                pool,
                fc1: layer(squeezed, pool * pool * cin),
                fc2: layer(squeezed, squeezed),
                fc_phi: layer(latent * latent, squeezed),
                fc_scale: layer(cout, squeezed),
            },
            bn: BatchNorm2d::new(cout),
        }))
    }
}

/// A fully connected layer without bias, starts in N(0, 0.01²).
#[derive(Debug, Clone)]
pub struct Projection<T: Real> {
    /// `[O, I]`.
    pub weight: Param<T>,
}

walk_fields!(impl<T> Projection<T> { weight });

impl<T: Real> Projection<T> {
    fn of(&self, cx: &Cx<T>, x: &Var<T>) -> Result<Var<T>> {
        x.linear(&self.weight.var(cx), None)
    }
}

/// Λ and Φ, (dcd.3).
#[derive(Debug, Clone)]
pub struct Head<T: Real> {
    pool: usize,
    /// D `[S, p·Cin]`.
    pub fc1: Projection<T>,
    /// E `[S, S]`.
    pub fc2: Projection<T>,
    /// F_Φ `[L², S]`.
    pub fc_phi: Projection<T>,
    /// F_Λ `[Cout, S]`.
    pub fc_scale: Projection<T>,
}

walk_fields!(impl<T> Head<T> { fc1, fc2, fc_phi, fc_scale });

/// h(t) = ReLU6(t + 3)/3: from 0 to 2, and 1 at 0.
fn hard_sigmoid<T: Real>(t: &Var<T>) -> Result<Var<T>> {
    let [three, third] = [3.0, 1.0 / 3.0].map(|v| Var::constant(Tensor::full([1], T::of(v))));
    t.add(&three)?.relu6().mul(&third)
}

impl<T: Real> Head<T> {
    /// `x [N,Cin,H,W]` → the means of the whole map, or of its four overlapping quarters, `[N, p·Cin]`, a channel's beside
    /// each other.
    fn pooled(&self, x: &Var<T>) -> Result<Var<T>> {
        let [n, c, h, w] = x.value().dims("dcd", "x")?;
        let mut x = x.clone();
        for axis in (2..4).filter(|&axis| [h, w][axis - 2] < self.pool) {
            x = Var::concat(&vec![x; self.pool], axis)?; // a line is a half of itself
        }
        let window = self.window([x.shape()[2], x.shape()[3]]);
        x.avg_pool2d(&window)?.reshape([n, c * self.pool * self.pool])
    }

    /// The quarters of a map, or all of it.
    fn window(&self, extents: [usize; 2]) -> Window {
        let [kernel, stride] =
            [extents.map(|extent| extent.div_ceil(self.pool)), extents.map(|extent| extent / self.pool)];
        Window { kernel, stride, padding: [0; 2] }
    }

    /// Λ `[N,Cout]` and Φ `[N,L²]`.
    fn forward(&self, cx: &Cx<T>, x: &Var<T>) -> Result<(Var<T>, Var<T>)> {
        let e = self.fc1.of(cx, &if self.pool == 1 { x.global_avg_pool()? } else { self.pooled(x)? })?;
        let e = e.mul(&hard_sigmoid(&self.fc2.of(cx, &e)?)?)?;
        Ok((hard_sigmoid(&self.fc_scale.of(cx, &e)?)?, self.fc_phi.of(cx, &e)?))
    }
}

impl<T: Real> Head<T> {
    /// 3Λ `[Cout, 1, 1]` and Φ `[L², 1, 1]` of an image; `None` for a map of one line, which has no quarters.
    fn plan(&self, plan: &mut Builder<T>, x: Map) -> Result<Option<(Map, Map)>> {
        let Some(means) = self.plan_pooled(plan, x)? else { return Ok(None) };
        // 3 h(t) = ReLU6(t + 3); the thirds are in the layers behind.
        let hard = |plan: &mut Builder<T>, e: Map, w: &Tensor<T>| {
            let three = Tensor::full([w.shape()[0]], T::of(3.0));
            plan.linear(e, w, Some(&three), Rectifier::Relu6)
        };
        let [cin, ..] = plan.shape(x);
        let fc1 = self.fc1.weight.value.reshape([self.fc2.weight.value.shape()[0], cin, self.pool, self.pool])?;
        let e = plan.conv(means, &fc1, None, &Geometry::default(), Rectifier::Identity)?;
        let gates = hard(plan, e, &self.fc2.weight.value)?;
        let e = plan.scale(e, gates)?;
        let lambda = hard(plan, e, &third(&self.fc_scale.weight.value))?;
        let phi = plan.linear(e, &third(&self.fc_phi.weight.value), None, Rectifier::Identity)?;
        Ok(Some((lambda, phi)))
    }

    /// The means of [`pooled`](Self::pooled) as a map of one position or four: a convolution with equal weights.
    fn plan_pooled(&self, plan: &mut Builder<T>, x: Map) -> Result<Option<Map>> {
        let [c, h, w] = plan.shape(x);
        if self.pool == 1 {
            return Ok(Some(plan.global_avg_pool(x)));
        }
        if h < self.pool || w < self.pool {
            return Ok(None);
        }
        let Window { kernel: [kh, kw], stride, .. } = self.window([h, w]);
        let mean = Tensor::full([c, 1, kh, kw], T::of(1.0 / (kh * kw) as f64));
        let geometry = Geometry { stride, ..Geometry::default().groups(c) };
        plan.conv(x, &mean, None, &geometry, Rectifier::Identity).map(Some)
    }
}

/// A third of every weight.
fn third<T: Real>(w: &Tensor<T>) -> Tensor<T> {
    w.map(|w| w / T::of(3.0))
}

/// A site of DCD, (dcd.2).
#[derive(Debug, Clone)]
pub struct Decomposed<T: Real> {
    spec: SiteSpec,
    /// W_0.
    pub conv: Conv2d<T>,
    /// Qᵀ `[L,Cin,1,1]`.
    pub conv_q: Conv2d<T>,
    /// P `[Cout,L,1,1]`.
    pub conv_p: Conv2d<T>,
    /// BN_1.
    pub bn1: BatchNorm2d<T>,
    /// BN_2.
    pub bn2: BatchNorm2d<T>,
    /// Λ and Φ.
    pub head: Head<T>,
    /// The batch norm behind.
    pub bn: BatchNorm2d<T>,
}

walk_fields!(impl<T> Decomposed<T> { conv, conv_q, conv_p, bn1, bn2, head, bn });

impl<T: Real> Site<T> for Decomposed<T> {
    fn spec(&self) -> &SiteSpec {
        &self.spec
    }

    // ANCHOR: forward
    fn forward(&self, cx: &Cx<T>, x: &Var<T>, activation: Activation) -> Result<Var<T>> {
        let (lambda, phi) = self.head.forward(cx, x)?;
        let (n, l) = (lambda.shape()[0], self.bn1.weight.value.len());
        let scaled = self.conv.forward(cx, x)?.gate(&lambda)?;
        let v = self.bn1.after(cx, &self.conv_q, x, Activation::Identity)?;
        // Φ v: a 1x1 convolution of each sample.
        let phi = phi.reshape([n * l, l, 1, 1])?;
        let z = v.conv2d_per_sample(&phi, None, &self.conv_p.geometry, Activation::Identity.into())?;
        let z = self.bn2.normalise(cx, &z, None, Activation::Identity)?;
        let none = Activation::Identity.into();
        let latent = self.conv_p.forward(cx, &Var::sum_maps(&[&z, &v], none)?)?;
        self.bn.normalise(cx, &Var::sum_maps(&[&scaled, &latent], none)?, None, activation)
    }
    // ANCHOR_END: forward

    fn cost(&self, input: [usize; 2]) -> Result<Cost> {
        let [oh, ow] = self.spec.output(input)?;
        let (o, l) = (self.spec.cout, self.bn1.weight.value.len());
        let projections = self.conv_q.weight.value.len() + self.conv_p.weight.value.len();
        Ok(Cost {
            parameters: self.parameters(),
            macs: self.spec.macs(input)? + oh * ow * (projections + l * l + o) + self.head.macs(),
            coefficients: l * l + o,
            generated: 0,
        })
    }
}

impl<T: Real> Head<T> {
    fn macs(&self) -> usize {
        [&self.fc1, &self.fc2, &self.fc_phi, &self.fc_scale].iter().map(|fc| fc.weight.value.len()).sum()
    }
}

impl<T: Real> TrainedSite<T> for Decomposed<T> {
    /// (dcd.5).
    // ANCHOR: fold
    fn fold(&self) -> Result<Folded<T>, FoldError> {
        let l = self.bn1.weight.value.len();
        let s = fold::scale(&self.bn)?;
        let (q, of_q) = fold::batch_norm(&self.conv_q, &self.bn1)?;
        let s2 = fold::scale(&self.bn2)?;
        let mut head = self.head.clone();
        head.fc_phi.weight = Param::new(fold::scale_kernels(&head.fc_phi.weight.value, &s2)); // the rows of Φ
        let latent = DecomposedKernel {
            spec: self.spec,
            conv: self.conv.clone(),
            conv_q: Conv2d::from_values(q, Some(of_q), self.conv_q.geometry),
            conv_p: self.conv_p.clone(),
            shift: Param::new(fold::shift(&self.bn2, &Tensor::zeros([l]))?),
            head,
        };
        let shift = fold::shift(&self.bn, &Tensor::zeros([self.spec.cout]))?;
        Ok(Folded::Generated(FoldedGenerated::new(self.spec, latent.scaled(&s), shift)))
    }
    // ANCHOR_END: fold
}

/// W'(x) and b(x) of (dcd.5). Keys: `conv.weight`, `conv_q.{weight,bias}`, `conv_p.weight`, `shift`, `head.*`.
#[derive(Debug, Clone)]
pub struct DecomposedKernel<T: Real> {
    spec: SiteSpec,
    /// s W_0.
    pub conv: Conv2d<T>,
    /// Q' and q'.
    pub conv_q: Conv2d<T>,
    /// s P.
    pub conv_p: Conv2d<T>,
    /// t `[L]`.
    pub shift: Param<T>,
    /// Λ and S_2 Φ.
    pub head: Head<T>,
}

walk_fields!(impl<T> DecomposedKernel<T> { conv, conv_q, conv_p, shift, head });

impl<T: Real> DecomposedKernel<T> {
    fn latent(&self) -> usize {
        self.shift.value.len()
    }
}

impl<T: Real> Generator<T> for DecomposedKernel<T> {
    // ANCHOR: kernel
    fn generate(&self, cx: &Cx<T>, x: &Var<T>) -> Result<(Var<T>, Option<Var<T>>)> {
        let [o, i, k, _] = self.spec.weight_shape();
        let l = self.latent();
        let (lambda, phi) = self.head.forward(cx, x)?;
        let n = lambda.shape()[0];
        let one = Var::constant(Tensor::from_fn([1, l, l], |at| T::of(f64::from(u8::from(at[1] == at[2])))));
        let m = phi.reshape([n, l, l])?.add(&one)?;
        let p = self.conv_p.weight.var(cx).reshape([1, o, l])?.add(&Var::constant(Tensor::zeros([n, 1, 1])))?;
        let pm = p.matmul(&m)?.reshape([n * o, l])?;
        let q = self.conv_q.weight.var(cx).reshape([l, i])?;
        let centre =
            Var::constant(Tensor::from_fn([1, 1, k, k], |at| T::of(f64::from(u8::from(at[2..] == [k / 2; 2])))));
        let latent = pm.matmul(&q)?.reshape([n * o, i, 1, 1])?.mul(&centre)?;
        let base = self.conv.weight.var(cx).reshape([1, o, i * k * k])?.mul(&lambda.reshape([n, o, 1])?)?;
        let w = base.reshape([n * o, i, k, k])?.add(&latent)?;
        // b = P M q' + P t.
        let bias = self.conv_q.bias.as_ref().expect("a folded Q has a bias").var(cx).reshape([l, 1])?;
        let of_shift = self.conv_p.weight.var(cx).reshape([o, l])?.matmul(&self.shift.var(cx).reshape([l, 1])?)?;
        let b = pm.matmul(&bias)?.reshape([n, o])?.add(&of_shift.reshape([o])?)?;
        Ok((w, Some(b)))
    }
    // ANCHOR_END: kernel

    fn cost(&self) -> Cost {
        let ([o, i, k, _], l) = (self.spec.weight_shape(), self.latent());
        let kernel = o * i * k * k;
        Cost {
            macs: self.head.macs() + kernel + o * l * (l + i + 2),
            coefficients: l * l + o,
            generated: kernel + o,
            ..Cost::default()
        }
    }

    fn scaled(&self, s: &Tensor<T>) -> Box<dyn Generator<T>> {
        let scaled = |conv: &Conv2d<T>| Conv2d {
            weight: Param::new(fold::scale_kernels(&conv.weight.value, s)),
            ..conv.clone()
        };
        Box::new(DecomposedKernel { conv: scaled(&self.conv), conv_p: scaled(&self.conv_p), ..self.clone() })
    }

    fn boxed(&self) -> Box<dyn Generator<T>> {
        Box::new(self.clone())
    }

    /// (dcd.2) on features, with every batch norm in its convolution: (dcd.5) from right to left, which needs no product
    /// of matrices for each image.
    fn plan(&self, plan: &mut Builder<T>, x: Map, site: &Planned<'_, T>) -> Result<Option<Map>> {
        let none = Activation::Identity.into();
        let Some((lambda, phi)) = self.head.plan(plan, x)? else { return Ok(None) };
        let scaled = plan.conv(x, &third(&self.conv.weight.value), None, &site.spec.geometry(), none)?;
        let scaled = plan.scale(scaled, lambda)?;
        let v = self.conv_q.plan(plan, x, Activation::Identity)?;
        let kernels = (phi, [self.latent(), self.latent(), 1, 1]);
        let z = plan.conv_per_sample(v, kernels, &self.shift.value, &self.conv_p.geometry, none)?;
        let z = plan.add(z, v, none)?;
        let latent = plan.conv(z, &self.conv_p.weight.value, Some(site.bias), &self.conv_p.geometry, none)?;
        plan.add(scaled, latent, site.activation.into()).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_the_authors() {
        let latent = [(16, 96), (96, 24), (384, 64), (160, 960), (960, 160)]
            .map(|(cin, cout)| Sizes::pointwise(cin, cout, 8).latent);
        assert_eq!(latent, [8, 12, 16, 20, 40]);
        assert_eq!(Sizes::pointwise(16, 96, 8), Sizes { pool: 2, latent: 8, squeezed: 8 });
        assert_eq!(Sizes::pointwise(960, 160, 16), Sizes { pool: 1, latent: 40, squeezed: 100 });
        assert_eq!(Sizes::pointwise(3, 2, 8), Sizes { pool: 1, latent: 4, squeezed: 4 });
        assert_eq!(Sizes::spatial(64), Sizes { pool: 2, latent: 16, squeezed: 16 });
        assert_eq!(Sizes::spatial(512), Sizes { pool: 2, latent: 45, squeezed: 128 });
        assert_eq!(Sizes::spatial(2), Sizes { pool: 2, latent: 2, squeezed: 1 });
    }
}

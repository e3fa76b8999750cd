//! MAConv and MDConv, the paper's multi-layer convolutions: a k x k convolution to m channels and a 1 x 1 convolution
//! behind it, beside the convolution that they replace. In MDConv an attention network weighs the m channels.
//!
//! ```text
//! expanded           t = BN_1(W_1 * x),  u = a ⊙ t,  y = BN_b(W_b * x) + BN_2(W_2 * u)         (md.1)  paper 2.2
//! expanded-bn-after  y = BN(W_b * x + W_2 * (a ⊙ (W_1 * x)))                                  (md.2)
//! compact            y = BN((W_b + W_2 A W_1) * x)                                            (md.3)  paper 3, C1
//! compact-bias       y = BN((W_b + W_2 A W_1) * x + b_b + W_2 A b_1 + b_2)                    (md.4)  paper 3, C2
//! relu               u = ReLU(t) in (md.1) or (md.2)                                          (md.5)
//! ```
//! MAConv: A = I. (md.2) and (md.3) are the same function of the parameters. W_1 carries stride, padding and dilation.
//!
//! MAConv folds exactly to one convolution, MDConv to a compact dynamic site, (md.5) not at all.

use gatefold_autograd::Var;
use gatefold_tensor::kernels::compose::compose_kernels;
use gatefold_tensor::{Error, Real, Result, Tensor};
use serde::{Deserialize, Serialize};

use super::{CompactDynamic, Cost, FoldError, Folded, FoldedConv, Kind, Site, SiteSpec, TrainedSite};
use crate::{Activation, Attention, BatchNorm2d, Conv2d, Cx, Gate, Init, Mode, Module, Walk, fold, walk_fields};

/// The form in which a multi-layer convolution trains.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Form {
    /// Every convolution with its batch norm, (md.1).
    Expanded,
    /// The same function of the same parameters, computed as one affine map (ft.1 to ft.8); pointwise sites only.
    Folded,
    /// Folded or expanded, whichever costs less for the map at hand.
    #[default]
    Auto,
    /// One batch norm after the sum, (md.2).
    ExpandedBnAfter,
    /// One convolution with a composed kernel, (md.3).
    Compact,
    /// The same with a composed bias, (md.4).
    CompactBias,
}

impl Form {
    /// Whether each convolution has a batch norm of its own.
    fn has_inner_norms(self) -> bool {
        matches!(self, Form::Expanded | Form::Folded | Form::Auto)
    }
}

/// What stands between the two convolutions of the branch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BranchActivation {
    /// The gate of MDConv, nothing in MAConv.
    #[default]
    Gate,
    /// A ReLU, and no attention network, (md.5).
    Relu,
}

/// The options of MAConv.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MaConv {
    /// Channels between the two convolutions.
    pub m: usize,
    /// Whether the replaced convolution stays beside the branch.
    pub bypass: bool,
    /// What stands between the two convolutions.
    pub activation: BranchActivation,
    /// The form of training.
    pub form: Form,
}

/// The options of MDConv.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MdConv {
    /// Channels between the two convolutions.
    pub m: usize,
    /// The function at the end of the attention network.
    pub gate: Gate,
    /// τ of the softmax gate.
    pub temperature: f64,
    /// Width of the attention network over the input channels.
    pub hidden: f64,
    /// Whether the replaced convolution stays beside the branch.
    pub bypass: bool,
    /// What stands between the two convolutions.
    pub activation: BranchActivation,
    /// The form of training.
    pub form: Form,
}

impl Default for MaConv {
    fn default() -> Self {
        MaConv { m: 20, bypass: true, activation: BranchActivation::Gate, form: Form::Auto }
    }
}

impl Default for MdConv {
    fn default() -> Self {
        let MaConv { m, bypass, activation, form } = MaConv::default();
        MdConv { m, gate: Gate::Sigmoid, temperature: 1.0, hidden: 0.25, bypass, activation, form }
    }
}

/// More channels than this are nobody's branch; a file could ask for any number.
const MAX_M: usize = 65_536;

impl Kind for MaConv {
    fn check(&self) -> Result<(), String> {
        let MaConv { m, activation, form, .. } = *self;
        if !(1..=MAX_M).contains(&m) {
            return Err(format!("m = {m} is not in 1 ..= {MAX_M}"));
        }
        if matches!(form, Form::Compact | Form::CompactBias) && activation == BranchActivation::Relu {
            return Err(
                "with a ReLU between the two convolutions there is no compact form; use an expanded form".to_owned()
            );
        }
        Ok(())
    }

    fn build<T: Real>(&self, spec: SiteSpec, init: &Init) -> Result<Box<dyn TrainedSite<T>>> {
        Ok(Box::new(MultiLayer::new(spec, self, None, init)?))
    }
}

impl MdConv {
    fn branch(&self) -> MaConv {
        let MdConv { m, bypass, activation, form, .. } = *self;
        MaConv { m, bypass, activation, form }
    }
}

impl Kind for MdConv {
    fn check(&self) -> Result<(), String> {
        super::check_hidden(self.hidden)?;
        if !(self.temperature > 0.0 && self.temperature.is_finite()) {
            return Err(format!("the temperature {} is not positive and finite", self.temperature));
        }
        self.branch().check()
    }

    fn build<T: Real>(&self, spec: SiteSpec, init: &Init) -> Result<Box<dyn TrainedSite<T>>> {
        Ok(Box::new(MultiLayer::new(spec, &self.branch(), Some(self), init)?))
    }
}

/// A convolution and the batch norm that may follow it.
#[derive(Debug, Clone)]
pub struct Bypass<T: Real> {
    /// W_b, and b_b in (md.4).
    pub conv: Conv2d<T>,
    /// BN_b, in (md.1).
    pub bn: Option<BatchNorm2d<T>>,
}

walk_fields!(impl<T> Bypass<T> { conv, bn });

/// The two convolutions in a row.
#[derive(Debug, Clone)]
pub struct Branch<T: Real> {
    /// W_1 `[m, Cin/g, k, k]`, and b_1 in (md.4).
    pub conv1: Conv2d<T>,
    /// BN_1, in (md.1).
    pub bn1: Option<BatchNorm2d<T>>,
    /// W_2 `[Cout, m/g, 1, 1]`, and b_2 in (md.4).
    pub conv2: Conv2d<T>,
    /// BN_2, in (md.1).
    pub bn2: Option<BatchNorm2d<T>>,
}

walk_fields!(impl<T> Branch<T> { conv1, bn1, conv2, bn2 });

/// A site of MAConv or MDConv.
#[derive(Debug, Clone)]
pub struct MultiLayer<T: Real> {
    spec: SiteSpec,
    form: Form,
    activation: BranchActivation,
    /// The replaced convolution.
    pub bypass: Option<Bypass<T>>,
    /// W_1 and W_2.
    pub branch: Branch<T>,
    /// a = F(x), of MDConv.
    pub attention: Option<Attention<T>>,
    /// BN after the sum, in (md.2) to (md.4).
    pub bn: Option<BatchNorm2d<T>>,
}

walk_fields!(impl<T> MultiLayer<T> { bypass, branch, attention, bn });

impl<T: Real> MultiLayer<T> {
    fn new(spec: SiteSpec, options: &MaConv, attention: Option<&MdConv>, init: &Init) -> Result<Self> {
        let MaConv { m, bypass, activation, form } = *options;
        if m % spec.groups != 0 {
            let groups = spec.groups;
            return Err(Error::invalid("multi-layer", format!("m = {m} must be a multiple of {groups} groups")));
        }
        let (bias, inner) = (form == Form::CompactBias, form.has_inner_norms());
        if form == Form::Folded && !(spec.is_pointwise() && activation == BranchActivation::Gate) {
            let why = format!("{spec} cannot train folded: only 1x1 sites with a gate can; use form auto or expanded");
            return Err(Error::invalid("multi-layer", why));
        }
        let norm = |channels, wanted: bool| wanted.then(|| BatchNorm2d::new(channels));
        let conv = |spec: &SiteSpec| Conv2d::new(spec, bias, init);
        Ok(MultiLayer {
            spec,
            form,
            activation,
            bypass: bypass.then(|| Bypass { conv: conv(&spec), bn: norm(spec.cout, inner) }),
            branch: Branch {
                conv1: conv(&SiteSpec { cout: m, ..spec }),
                bn1: norm(m, inner),
                conv2: conv(&spec.second(m)),
                bn2: norm(spec.cout, inner),
            },
            attention: attention.filter(|_| activation == BranchActivation::Gate).map(|options| {
                let hidden = Attention::<T>::hidden_width(spec.cin, options.hidden);
                Attention::new(spec.cin, hidden, m, options.gate, options.temperature, init)
            }),
            bn: norm(spec.cout, !inner),
        })
    }

    /// (ft.1) to (ft.7): the output of (md.1) in training, with its activation.
    // ANCHOR: folded
    fn folded(&self, cx: &Cx<T>, x: &Var<T>, activation: Activation) -> Result<Var<T>> {
        let moments = x.sample_moments(self.attention.is_some())?;
        let a = self.attention.as_ref().map(|attention| attention.gates(cx, &moments.mean()?)).transpose()?;
        let Branch { conv1, bn1: Some(bn1), conv2, bn2: Some(bn2) } = &self.branch else {
            return Err(Error::invalid("multi-layer", "the folded form has a batch norm behind each convolution"));
        };
        let bypass = self.bypass.as_ref().and_then(|bypass| Some((&bypass.conv, bypass.bn.as_ref()?)));
        let layers = (bypass.map(|(conv, bn)| bn.behind(cx, conv)), bn1.behind(cx, conv1), bn2.behind(cx, conv2));
        let (y, stats) =
            moments.folded_site((layers.0.as_ref(), &layers.1, &layers.2), a.as_ref(), activation.into())?;
        for (bn, stats) in [bypass.map(|(_, bn)| bn), Some(bn1), Some(bn2)].into_iter().zip(&stats) {
            if let (Some(bn), Some(stats)) = (bn, stats) {
                cx.record(bn, stats);
            }
        }
        Ok(y)
    }
    // ANCHOR_END: folded

    /// Whether this pass is computed folded: in training, where the batch's own statistics are used.
    fn trains_folded(&self, cx: &Cx<T>, x: &Var<T>) -> Result<bool> {
        let [n, _, h, w] = x.shape()[..] else { return Ok(false) };
        if cx.mode() != Mode::Train || !self.spec.is_pointwise() || self.activation == BranchActivation::Relu {
            return Ok(false);
        }
        Ok(match self.form {
            Form::Folded => true,
            Form::Auto => {
                let m = self.branch.conv1.weight.value.shape()[0];
                folding_pays(&self.spec, m, self.attention.is_some(), [n, h * w])
            }
            _ => false,
        })
    }

    /// (md.1) with its activation, or (md.2) before the last batch norm.
    fn expanded(&self, cx: &Cx<T>, x: &Var<T>, activation: Activation) -> Result<Var<T>> {
        let convolve = |conv: &Conv2d<T>, bn: &Option<BatchNorm2d<T>>, x: &Var<T>, activation| match bn {
            Some(bn) => bn.after(cx, conv, x, activation),
            None => Ok(activation.apply(conv.forward(cx, x)?)),
        };
        // ANCHOR: expanded
        let between = if self.activation == BranchActivation::Relu { Activation::Relu } else { Activation::Identity };
        let t = convolve(&self.branch.conv1, &self.branch.bn1, x, between)?;
        let u = match (&self.attention, self.activation) {
            (_, BranchActivation::Relu) => t,
            (Some(attention), _) => t.gate(&attention.forward(cx, x)?)?,
            (None, _) => t,
        };
        let Some(bypass) = &self.bypass else {
            return convolve(&self.branch.conv2, &self.branch.bn2, &u, activation);
        };
        let y = convolve(&self.branch.conv2, &self.branch.bn2, &u, Activation::Identity)?;
        Var::sum_maps(&[&convolve(&bypass.conv, &bypass.bn, x, Activation::Identity)?, &y], activation.into())
        // ANCHOR_END: expanded
    }

    /// (md.3) and (md.4) before the batch norm.
    fn compact(&self, cx: &Cx<T>, x: &Var<T>) -> Result<Var<T>> {
        let a = self.attention.as_ref().map(|attention| attention.forward(cx, x)).transpose()?;
        let Branch { conv1, conv2, .. } = &self.branch;
        let base = self.bypass.as_ref().map(|bypass| &bypass.conv);
        let bias = match (&conv1.bias, &conv2.bias) {
            (Some(b1), Some(b2)) => Some((
                b1.var(cx),
                match base.and_then(|conv| conv.bias.as_ref()) {
                    Some(b) => b.var(cx).add(&b2.var(cx))?,
                    None => b2.var(cx),
                },
            )),
            _ => None,
        };
        generated_conv(
            x,
            a.as_ref(),
            (base.map(|conv| conv.weight.var(cx)).as_ref(), &conv1.weight.var(cx), &conv2.weight.var(cx)),
            bias.as_ref().map(|(b1, b)| (b1, b)),
            &self.spec,
            Activation::Identity,
        )
    }

    /// Kernels and biases with every batch norm folded in, (fold.1) and (fold.3).
    // ANCHOR: parts
    fn parts(&self) -> Result<Parts<T>> {
        let folded = |conv: &Conv2d<T>, bn: &Option<BatchNorm2d<T>>| match bn {
            Some(bn) => fold::batch_norm(conv, bn),
            None => Ok((conv.weight.value.clone(), fold::bias_or_zero(conv))),
        };
        let (w1, b1) = folded(&self.branch.conv1, &self.branch.bn1)?;
        let (w2, mut b) = folded(&self.branch.conv2, &self.branch.bn2)?;
        let mut parts = Parts { base: None, w1, b1, w2, b: b.clone() };
        if let Some(bypass) = &self.bypass {
            let (base, of_base) = folded(&bypass.conv, &bypass.bn)?;
            b.zip_apply(&of_base, |b, of_base| *b += of_base)?;
            parts = Parts { base: Some(base), b, ..parts };
        }
        if let Some(bn) = &self.bn {
            let s = fold::scale(bn)?;
            parts.base = parts.base.map(|base| fold::scale_kernels(&base, &s));
            parts.w2 = fold::scale_kernels(&parts.w2, &s);
            parts.b = fold::shift(bn, &parts.b)?;
        }
        Ok(parts)
    }
    // ANCHOR_END: parts
}

/// The folded pieces of a site: `y = W_b' * x + W_2' A (W_1' * x + b_1') + b`.
pub(super) struct Parts<T: Real> {
    /// W_b'.
    pub base: Option<Tensor<T>>,
    /// W_1'.
    pub w1: Tensor<T>,
    /// b_1'.
    pub b1: Tensor<T>,
    /// W_2'.
    pub w2: Tensor<T>,
    /// b_b' + b_2'.
    pub b: Tensor<T>,
}

/// Whether a training step of n samples with P positions costs less folded than expanded: multiply-accumulates by what
/// one costs in each kind of loop, and passes over memory, in nanoseconds on one core.
///
/// The constants are fitted by `benches/folding.py` to the times of `benches/folding.rs` (AMD EPYC Zen 5, AVX-512, f32, with
/// bypass). Of its 264 places, branches and batches this picks the faster form at 96 %, and loses 16 % at worst and 0.3 %
/// on average.
// ANCHOR: folding_pays
fn folding_pays(spec: &SiteSpec, m: usize, gated: bool, [n, p]: [usize; 2]) -> bool {
    /// A multiply-accumulate of a product over pixels.
    const PIXEL: f64 = 0.011;
    /// All passes over a value of the input and the output, expanded.
    const EXPANDED: f64 = 1.53;
    /// Those over a value of the branch; the gate doubles them.
    const BRANCH: f64 = 0.405;
    /// All passes over a value of the input and the output, folded.
    const FOLDED: f64 = 0.63;
    /// A multiply-accumulate of a sample's kernel.
    const KERNEL: f64 = 0.159;
    /// An entry of a sample's covariance.
    const COVARIANCE: f64 = 3.37;
    /// A multiply-accumulate of the batch's covariance with the kernels, in f64.
    const BATCH: f64 = 0.363;
    let [c, o, m, n, p] = [spec.cin, spec.cout, m, n, p].map(|v| v as f64);
    let (gates, samples) = if gated { (2.0, n) } else { (1.0, 0.0) };
    let products = c * o + m * (c + o);
    let expanded = n * p * (PIXEL * 3.0 * products + EXPANDED * (c + o) + BRANCH * gates * m);
    let pixels = n * p * (PIXEL * (3.0 * c * o + 2.0 * c * c) + FOLDED * (c + o));
    let folded = pixels + samples * (KERNEL * m * c * o + COVARIANCE * c * c) + BATCH * c * c * (o + m);
    folded < expanded
}
// ANCHOR_END: folding_pays

/// One convolution with a composed kernel, per sample where `a` is given (paper 2.5): kernels `(W_b, W_1, W_2)`, biases
/// `(b_1, b_b + b_2)`.
pub(super) fn generated_conv<T: Real>(
    x: &Var<T>,
    a: Option<&Var<T>>,
    (base, w1, w2): (Option<&Var<T>>, &Var<T>, &Var<T>),
    bias: Option<(&Var<T>, &Var<T>)>,
    spec: &SiteSpec,
    activation: Activation,
) -> Result<Var<T>> {
    // ANCHOR: compact
    let w = w1.compose_kernels(w2, a, base, spec.groups)?;
    let b = match bias {
        None => None,
        Some((b1, b)) => {
            let (b1, b) = (b1.reshape([b1.shape()[0], 1, 1, 1])?, b.reshape([spec.cout, 1, 1, 1])?);
            let composed = b1.compose_kernels(w2, a, Some(&b), spec.groups)?;
            Some(match a {
                Some(a) => composed.reshape([a.shape()[0], spec.cout])?,
                None => composed.reshape([spec.cout])?,
            })
        }
    };
    match a {
        Some(_) => x.conv2d_per_sample(&w, b.as_ref(), &spec.geometry(), activation.into()),
        None => x.conv2d_rectified(&w, b.as_ref(), &spec.geometry(), activation.into()),
    }
    // ANCHOR_END: compact
}

/// What composing one kernel costs (paper 2.9): `m·Cout·Cin·k² + 2·m·Cout`, divided among the groups.
pub(super) fn compose_macs(spec: &SiteSpec, m: usize) -> usize {
    let [o, i, k, _] = spec.weight_shape();
    o * (m / spec.groups) * (i * k * k + 2)
}

/// What the two convolutions of the branch and the gate between them cost: `P·m·(Cin·k² + Cout + 1)`.
pub(super) fn branch_macs(spec: &SiteSpec, m: usize, gated: bool, input: [usize; 2]) -> Result<usize> {
    let output = spec.output(input)?;
    let gate = if gated { output[0] * output[1] * m } else { 0 };
    Ok(SiteSpec { cout: m, ..*spec }.macs(input)? + spec.second(m).macs(output)? + gate)
}

impl<T: Real> Site<T> for MultiLayer<T> {
    fn spec(&self) -> &SiteSpec {
        &self.spec
    }

    fn forward(&self, cx: &Cx<T>, x: &Var<T>, activation: Activation) -> Result<Var<T>> {
        if self.trains_folded(cx, x)? {
            return self.folded(cx, x, activation);
        }
        let Some(bn) = &self.bn else { return self.expanded(cx, x, activation) };
        let y = match self.form {
            Form::Compact | Form::CompactBias => self.compact(cx, x)?,
            _ => self.expanded(cx, x, Activation::Identity)?,
        };
        bn.normalise(cx, &y, None, activation)
    }

    fn cost(&self, input: [usize; 2]) -> Result<Cost> {
        let (spec, m) = (&self.spec, self.branch.conv1.weight.value.shape()[0]);
        let mut cost = Cost { parameters: self.parameters(), ..Cost::default() };
        if let Some(attention) = &self.attention {
            cost.macs += attention.macs();
            cost.coefficients = m;
        }
        match self.form {
            Form::Expanded | Form::ExpandedBnAfter | Form::Folded | Form::Auto => {
                cost.macs += branch_macs(spec, m, self.attention.is_some(), input)?;
                cost.macs += if self.bypass.is_some() { spec.macs(input)? } else { 0 };
            }
            Form::Compact | Form::CompactBias => {
                cost.macs += compose_macs(spec, m) + spec.macs(input)?;
                let bias = if self.form == Form::CompactBias { spec.cout } else { 0 };
                cost.generated = self.branch_generates(bias);
            }
        }
        Ok(cost)
    }
}

impl<T: Real> MultiLayer<T> {
    fn branch_generates(&self, bias: usize) -> usize {
        let kernel: usize = self.spec.weight_shape().iter().product();
        if self.attention.is_some() { kernel + bias } else { 0 }
    }
}

impl<T: Real> TrainedSite<T> for MultiLayer<T> {
    // ANCHOR: fold
    fn fold(&self) -> Result<Folded<T>, FoldError> {
        if self.activation == BranchActivation::Relu {
            let why =
                "the ReLU between the two convolutions of the branch is not linear, so they are no one convolution";
            return Err(FoldError::NotFoldable(why.to_owned()));
        }
        let parts = self.parts()?;
        match &self.attention {
            Some(attention) => Ok(Folded::Dynamic(CompactDynamic::new(self.spec, parts, attention.clone()))),
            None => {
                // (fold.2)
                let w = compose_kernels(parts.base.as_ref(), &parts.w2, None, &parts.w1, self.spec.groups)?;
                let mut b = parts.b;
                b.zip_apply(&fold::bias_through(&parts.w2, &parts.b1, self.spec.groups)?, |b, through| *b += through)?;
                Ok(Folded::Conv(FoldedConv::new(self.spec, w, b)))
            }
        }
    }
    // ANCHOR_END: fold
}

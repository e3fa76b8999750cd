//! ExpandNet (Guo et al., NeurIPS 2020): the convolution as a row of three with r times the channels between them and no
//! non-linearity.
//!
//! ```text
//! y = BN(W_3 * (W_2 * (W_1 * x))),  W_1 [rCin,Cin/g,1,1],  W_2 [rCout,rCin/g,k,k],  W_3 [Cout,rCout/g,1,1]   (ex.1)
//! y = BN(W_3 * BN_2(W_2 * BN_1(W_1 * x)))                                                    inner norms     (ex.2)
//! W[o,c,u,v] = Σ_{p,q} W_3[o,p] W_2[p,q,u,v] W_1[q,c],  b = W_3 (Σ_{q,u,v} W_2[·,q,u,v] b_1[q] + b_2) + b_3   (ex.3)
//! ```
//! The padding stands on W_1, as in the official code: a pixel of the border that it adds is b_1 (or the shift of BN_1)
//! like any other place where x is zero, W_2 pads nothing, and (ex.3) is exact everywhere. BN_1 then takes the border into
//! its statistics. Stride and dilation are W_2's; all three have the groups of the site, which may be a 1 x 1 one.
//!
//! With the naive order, zeros added between W_1 and W_2, those pixels are 0 where (ex.3) needs b_1: the contraction is
//! exact in the interior and wrong at the border, so there is no fold, unless b_1 = 0 or nothing is padded.
//!
//! Without inner norms the row is linear in x while it trains too, and each of its kernels gets its gradient through
//! (ex.3): the same function of the same parameters at the price of one convolution, [`RowForm::Folded`].

use gatefold_autograd::Var;
use gatefold_tensor::kernels::compose::compose_kernels;
use gatefold_tensor::{Error, Real, Result};
use serde::{Deserialize, Serialize};

use super::{Cost, FoldError, Folded, FoldedConv, Kind, Site, SiteSpec, TrainedSite};
use crate::fold::{self, kernels};
use crate::{Activation, BatchNorm2d, Conv2d, Cx, Init, Mode, Module, Walk, walk_fields};

/// Which convolution of the row pads.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Padding {
    /// The first, 1 x 1 one: folds exactly.
    #[default]
    First,
    /// The second, k x k one: the naive order, which has no exact fold at the border with inner norms or biases.
    Naive,
}

/// The form in which a row trains.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RowForm {
    /// Convolution by convolution, (ex.1), (ex.2).
    Expanded,
    /// One convolution with the contracted kernel, (ex.3); not with inner norms.
    Folded,
    /// Folded where that is exact and takes fewer multiply-accumulates.
    #[default]
    Auto,
}

/// The options of ExpandNet.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ExpandNet {
    /// r, the expansion rate.
    pub rate: usize,
    /// Whether the convolutions have biases: on CIFAR in the official code, not on ImageNet. The batch norm behind them
    /// takes them out again.
    pub bias: bool,
    /// Whether a batch norm follows each convolution, (ex.2).
    #[serde(rename = "inner-norms")]
    pub inner_norms: bool,
    /// Which convolution pads.
    pub padding: Padding,
    /// The form in which it trains.
    pub form: RowForm,
}

impl Default for ExpandNet {
    fn default() -> Self {
        ExpandNet { rate: 4, bias: false, inner_norms: false, padding: Padding::First, form: RowForm::Auto }
    }
}

impl Kind for ExpandNet {
    fn check(&self) -> Result<(), String> {
        if !(1..=64).contains(&self.rate) {
            return Err(format!("the expansion rate {} is not in 1 ..= 64", self.rate));
        }
        if self.form == RowForm::Folded && self.inner_norms {
            return Err(
                "form = folded is for rows without inner norms, whose statistics take every convolution".to_owned()
            );
        }
        if self.form == RowForm::Folded && self.bias && self.padding == Padding::Naive {
            return Err("form = folded is for rows that pad first: padding = naive is another function at the border \
                        where there are biases"
                .to_owned());
        }
        Ok(())
    }

    fn build<T: Real>(&self, spec: SiteSpec, init: &Init) -> Result<Box<dyn TrainedSite<T>>> {
        Ok(Box::new(ExpandedConv::new(spec, self, init)?))
    }
}

/// A site of ExpandNet.
#[derive(Debug, Clone)]
pub struct ExpandedConv<T: Real> {
    spec: SiteSpec,
    options: ExpandNet,
    /// W_1 and b_1.
    pub conv1: Conv2d<T>,
    /// BN_1, in (ex.2).
    pub bn1: Option<BatchNorm2d<T>>,
    /// W_2 and b_2.
    pub conv2: Conv2d<T>,
    /// BN_2, in (ex.2).
    pub bn2: Option<BatchNorm2d<T>>,
    /// W_3 and b_3.
    pub conv3: Conv2d<T>,
    /// BN.
    pub bn: BatchNorm2d<T>,
}

walk_fields!(impl<T> ExpandedConv<T> { conv1, bn1, conv2, bn2, conv3, bn });

impl<T: Real> ExpandedConv<T> {
    /// For the place `spec`.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the expanded channels cannot be counted.
    pub fn new(spec: SiteSpec, options: &ExpandNet, init: &Init) -> Result<Self> {
        let row = row(&spec, options)?;
        let conv = |spec: &SiteSpec| Conv2d::new(spec, options.bias, init);
        let norm = |spec: &SiteSpec| options.inner_norms.then(|| BatchNorm2d::new(spec.cout));
        Ok(ExpandedConv {
            spec,
            options: options.clone(),
            conv1: conv(&row[0]),
            bn1: norm(&row[0]),
            conv2: conv(&row[1]),
            bn2: norm(&row[1]),
            conv3: conv(&row[2]),
            bn: BatchNorm2d::new(spec.cout),
        })
    }

    /// The contraction (ex.3), exact wherever no padded pixel is seen. In the naive order it is **not** what the site
    /// computes at the border; [`fold`](TrainedSite::fold) gives it out only where it is exact everywhere.
    ///
    /// # Errors
    /// None in a site that was built by this crate.
    pub fn contract(&self) -> Result<FoldedConv<T>> {
        let groups = self.spec.groups;
        let folded = |conv: &Conv2d<T>, bn: &Option<BatchNorm2d<T>>| match bn {
            Some(bn) => fold::batch_norm(conv, bn),
            None => Ok((conv.weight.value.clone(), fold::bias_or_zero(conv))),
        };
        let (w1, b1) = folded(&self.conv1, &self.bn1)?;
        let (w2, mut b) = folded(&self.conv2, &self.bn2)?;
        let (w3, b3) = fold::batch_norm(&self.conv3, &self.bn)?;
        b.zip_apply(&kernels::of_constant(&w2, &b1, groups)?, |b, through| *b += through)?;
        let mut b = kernels::of_constant(&w3, &b, groups)?;
        b.zip_apply(&b3, |b, b3| *b += b3)?;
        let w = kernels::behind_pointwise(&compose_kernels(None, &w3, None, &w2, groups)?, &w1, groups)?;
        Ok(FoldedConv::new(self.spec, w, b))
    }

    // ANCHOR: contracts_exactly
    /// Whether (ex.3) is the site at the border too.
    fn contracts_exactly(&self) -> bool {
        let ExpandNet { bias, inner_norms, padding, .. } = self.options;
        padding == Padding::First || self.spec.padding == 0 || !(bias || inner_norms)
    }
    // ANCHOR_END: contracts_exactly

    /// Whether this pass is computed with the contracted kernel: in training. In use the row is computed as it is written
    /// down, so that verification compares two computations.
    fn trains_folded(&self, cx: &Cx<T>, x: &Var<T>) -> Result<bool> {
        let [images, _, h, w] = x.shape()[..] else { return Ok(false) };
        if cx.mode() != Mode::Train || self.options.inner_norms || !self.contracts_exactly() {
            return Ok(false);
        }
        Ok(match self.options.form {
            RowForm::Expanded => false,
            RowForm::Folded => true,
            RowForm::Auto => {
                let SiteSpec { cin, cout, kernel, groups, .. } = self.spec;
                let wide = self.options.rate * cout / groups;
                let contraction = kernel * kernel * cin / groups * (self.options.rate * cin * wide + wide * cout);
                let expanded = self.cost([h, w])?.macs;
                expanded.saturating_sub(self.spec.macs([h, w])?).saturating_mul(images) > contraction
            }
        })
    }

    /// (ex.3) on the tape, and the bias if the row has any.
    // ANCHOR: contracted
    fn contracted(&self, cx: &Cx<T>) -> Result<(Var<T>, Option<Var<T>>)> {
        let SiteSpec { cin, cout, kernel, groups: g, .. } = self.spec;
        let (taps, wide_in, wide_out) = (kernel * kernel, self.options.rate * cin / g, self.options.rate * cout / g);
        let [w1, w2, w3] = [&self.conv1, &self.conv2, &self.conv3].map(|conv| conv.weight.var(cx));
        // In memory the kernels of a group are matrices: a row a tap of W_2, a column a channel that it reads.
        let w2 = w2.reshape_memory([g, wide_out * taps, wide_in])?;
        let behind_w1 = w2.matmul(&w1.reshape_memory([g, wide_in, cin / g])?)?;
        let behind_w1 = behind_w1.reshape_memory([g * wide_out, cin / g, kernel, kernel])?;
        let w = behind_w1.compose_kernels(&w3, None, None, g)?;
        let [Some(b1), Some(b2), Some(b3)] = [&self.conv1, &self.conv2, &self.conv3].map(|conv| conv.bias.as_ref())
        else {
            return Ok((w, None));
        };
        let b = w2.matmul(&b1.var(cx).reshape([g, wide_in, 1])?)?;
        let b = b.reshape([g * wide_out, taps])?.sum(&[1], false)?.add(&b2.var(cx))?;
        let b = w3.reshape_memory([g, cout / g, wide_out])?.matmul(&b.reshape([g, wide_out, 1])?)?;
        Ok((w, Some(b.reshape([cout])?.add(&b3.var(cx))?)))
    }
    // ANCHOR_END: contracted
}

/// The places of the three convolutions.
fn row(spec: &SiteSpec, options: &ExpandNet) -> Result<[SiteSpec; 3]> {
    let too_many = || Error::invalid("expandnet", format!("{} times the channels of {spec}", options.rate));
    let wide = |channels: usize| channels.checked_mul(options.rate).ok_or_else(too_many);
    let (cin, cout) = (wide(spec.cin)?, wide(spec.cout)?);
    let [first, second] = match options.padding {
        Padding::First => [spec.padding, 0],
        Padding::Naive => [0, spec.padding],
    };
    Ok([
        SiteSpec { padding: first, groups: spec.groups, ..SiteSpec::pointwise(spec.cin, cin) },
        SiteSpec { cin, cout, padding: second, ..*spec },
        spec.second(cout),
    ])
}

impl<T: Real> Site<T> for ExpandedConv<T> {
    fn spec(&self) -> &SiteSpec {
        &self.spec
    }

    fn forward(&self, cx: &Cx<T>, x: &Var<T>, activation: Activation) -> Result<Var<T>> {
        if self.trains_folded(cx, x)? {
            let (w, b) = self.contracted(cx)?;
            let (z, stats) = x.conv2d_with_statistics(&w, b.as_ref(), &self.spec.geometry())?;
            return self.bn.normalise(cx, &z, Some(stats), activation);
        }
        let convolve = |conv: &Conv2d<T>, bn: &Option<BatchNorm2d<T>>, x: &Var<T>| match bn {
            Some(bn) => bn.after(cx, conv, x, Activation::Identity),
            None => conv.forward(cx, x),
        };
        // (ex.1), (ex.2)
        let t = convolve(&self.conv1, &self.bn1, x)?;
        let u = convolve(&self.conv2, &self.bn2, &t)?;
        self.bn.after(cx, &self.conv3, &u, activation)
    }

    /// `(H + 2p)(W + 2p) · r Cin²/g + P · (r² Cin Cout k²/g + r Cout²/g)`.
    fn cost(&self, input: [usize; 2]) -> Result<Cost> {
        let (mut macs, mut map) = (0, input);
        for spec in row(&self.spec, &self.options)? {
            macs += spec.macs(map)?;
            map = spec.output(map)?;
        }
        Ok(Cost { parameters: self.parameters(), macs, ..Cost::default() })
    }
}

impl<T: Real> TrainedSite<T> for ExpandedConv<T> {
    fn fold(&self) -> Result<Folded<T>, FoldError> {
        if !self.contracts_exactly() {
            let why = "with padding = naive, zeros stand at the border between the first convolution and the second, \
                       where one kernel needs the first one's shift: the contraction is exact in the interior and wrong \
                       at the border; train with padding = first, which folds exactly";
            return Err(FoldError::NotFoldable(why.to_owned()));
        }
        Ok(Folded::Conv(self.contract()?))
    }
}

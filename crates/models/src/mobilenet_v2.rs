//! MobileNetV2 (Sandler et al. 2018, arXiv 1801.04381, table 2): a 3x3 stem, 17 inverted bottlenecks, a 1x1 head to 1280
//! channels, a global average pool and a classifier. ReLU6 follows every convolution but the projections.
//!
//! ```text
//! y = project(ReLU6(depthwise(ReLU6(expand(x)))))    + x where stride is 1 and the channels stay the same
//! ```
//! The first bottleneck has no expansion. Channels, rounding, initial values and counts are those of torchvision's
//! `mobilenet_v2`, whose dropout before the classifier is left out. The CIFAR form has stride 1 in the stem and in the second
//! stage, and ends with a map of 4 x 4. The kind of convolution replaces the 33 pointwise convolutions of the bottlenecks.

use gatefold_autograd::Var;
use gatefold_layers::{
    Activation, ConvKind, Cx, Folded, Init, Linear, Module, Shared, Site, SiteSpec, TrainedSite, Walk, join,
    walk_fields,
};
use gatefold_tensor::plan::{Builder, Map};
use gatefold_tensor::{Error, Real, Result, Tensor};

use crate::network::{
    Block, block_path, fold_blocks, plan_blocks, plan_classifier, plan_sharing, plan_site, run, run_blocks, sharing,
    sites_of_blocks,
};
use crate::{BackboneSite, LayerCost, Network, NotFoldable, Resolution};

/// Output channels of the stem at width 1.
const STEM: usize = 32;
/// Output channels of the head up to width 1.
const HEAD: usize = 1280;
/// The widest network: 16 times the parameters.
const MAX_WIDTH: f64 = 4.0;

/// A row of the paper's table 2: bottlenecks alike but for the stride, which the first one has.
struct Stage {
    expansion: usize,
    channels: usize,
    blocks: usize,
    stride: usize,
    cifar_stride: usize,
}

const fn stage(expansion: usize, channels: usize, blocks: usize, stride: usize, cifar_stride: usize) -> Stage {
    Stage { expansion, channels, blocks, stride, cifar_stride }
}

const STAGES: [Stage; 7] = [
    stage(1, 16, 1, 1, 1),
    stage(6, 24, 2, 2, 1),
    stage(6, 32, 3, 2, 2),
    stage(6, 64, 4, 2, 2),
    stage(6, 96, 3, 1, 1),
    stage(6, 160, 3, 2, 2),
    stage(6, 320, 1, 1, 1),
];

/// `channels` times `width`, rounded to a multiple of 8, at least 8, and up where more than a tenth would be lost.
fn scaled(channels: usize, width: f64) -> usize {
    let exact = channels as f64 * width;
    let rounded = ((exact + 4.0) / 8.0).floor().max(1.0) * 8.0;
    (if rounded < 0.9 * exact { rounded + 8.0 } else { rounded }) as usize
}

/// Output channels of the stem and of the bottlenecks of each stage.
pub(crate) fn channels(width: f64) -> [usize; 1 + STAGES.len()] {
    std::array::from_fn(|i| scaled(if i == 0 { STEM } else { STAGES[i - 1].channels }, width))
}

/// Output channels of the head.
pub(crate) fn features(width: f64) -> usize {
    scaled(HEAD, width.max(1.0))
}

/// The first bottleneck of each stage, counted through all stages.
pub(crate) fn first_blocks() -> impl Iterator<Item = usize> {
    STAGES.iter().scan(0, |next, stage| Some(std::mem::replace(next, *next + stage.blocks)))
}

/// MobileNetV2 with sites of type `S`.
pub struct MobileNetV2<T: Real, S> {
    /// 3x3, input channels → 32.
    pub stem: S,
    /// The bottlenecks.
    pub blocks: Vec<Bottleneck<T, S>>,
    /// 1x1, 320 → 1280 channels.
    pub head: S,
    /// Channels → classes.
    pub classifier: Linear<T>,
}

walk_fields!(impl<T, S: Walk<T>> MobileNetV2<T, S> { stem, blocks, head, classifier });

/// An inverted bottleneck.
pub struct Bottleneck<T: Real, S> {
    /// What the sites share, made of the input.
    pub shared: Option<Shared<T>>,
    /// 1x1 to six times the channels.
    pub expand: Option<S>,
    /// 3x3 of each channel by itself.
    pub depthwise: S,
    /// 1x1 to few channels, without an activation.
    pub project: S,
    /// Whether the input is added to the output.
    pub residual: bool,
}

walk_fields!(impl<T, S: Walk<T>> Bottleneck<T, S> { shared, expand, depthwise, project });

impl<T: Real, S> Bottleneck<T, S> {
    fn sites(&self) -> impl Iterator<Item = (&'static str, &S)> {
        let expand = self.expand.iter().map(|site| ("expand", site));
        expand.chain([("depthwise", &self.depthwise), ("project", &self.project)])
    }

    fn folded(&self, path: &str) -> Result<Bottleneck<T, Folded<T>>, NotFoldable>
    where
        S: BackboneSite<T>,
    {
        let expand = self.expand.as_ref().map(|site| site.folded_at(&join(path, "expand"))).transpose()?;
        Ok(Bottleneck {
            shared: self.shared.clone(),
            expand,
            depthwise: self.depthwise.folded_at(&join(path, "depthwise"))?,
            project: self.project.folded_at(&join(path, "project"))?,
            residual: self.residual,
        })
    }
}

impl<T: Real, S: Site<T>> Block<T> for Bottleneck<T, S> {
    fn forward(&self, cx: &Cx<T>, x: &Var<T>) -> Result<Var<T>> {
        // ANCHOR: bottleneck
        sharing(cx, self.shared.as_ref(), x, || {
            let mut y = x.clone();
            if let Some(expand) = &self.expand {
                y = run(cx, "expand", expand, &y, Activation::Relu6)?;
            }
            y = run(cx, "depthwise", &self.depthwise, &y, Activation::Relu6)?;
            y = run(cx, "project", &self.project, &y, Activation::Identity)?;
            if self.residual { Var::sum_maps(&[&y, x], Activation::Identity.into()) } else { Ok(y) }
        })
        // ANCHOR_END: bottleneck
    }

    fn plan(&self, plan: &mut Builder<T>, x: Map) -> Result<Option<Map>> {
        plan_sharing(plan, self.shared.as_ref(), x, |plan| {
            let mut y = x;
            for (name, site) in self.sites() {
                let activation = if name == "project" { Activation::Identity } else { Activation::Relu6 };
                let Some(next) = plan_site(plan, name, site, y, activation)? else { return Ok(None) };
                y = next;
            }
            if self.residual { plan.add(y, x, Activation::Identity.into()).map(Some) } else { Ok(Some(y)) }
        })
    }
}

impl<T: Real> MobileNetV2<T, Box<dyn TrainedSite<T>>> {
    /// A new network; `width` scales every layer, the head only above 1.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the width is not in (0, 4] or the options of `conv` do not fit a site.
    pub fn new(
        conv: &ConvKind,
        resolution: Resolution,
        input_channels: usize,
        classes: usize,
        width: f64,
        init: Init,
    ) -> Result<Self> {
        if !(width > 0.0 && width <= MAX_WIDTH) {
            return Err(Error::invalid("mobilenetv2", format!("the width {width} is not in (0, {MAX_WIDTH}]")));
        }
        let init = &init.kaiming_fan_out();
        let cifar = resolution == Resolution::Cifar;
        let [mut cin, channels @ ..] = channels(width);
        let stem = SiteSpec::same(input_channels, cin, 3, if cifar { 1 } else { 2 }).fixed();
        let stem = conv.build(stem, init)?;
        let mut blocks = Vec::new();
        for (stage, cout) in STAGES.iter().zip(channels) {
            for i in 0..stage.blocks {
                let stride = match (i, cifar) {
                    (0, true) => stage.cifar_stride,
                    (0, false) => stage.stride,
                    _ => 1,
                };
                let hidden = cin * stage.expansion;
                let site = |spec: SiteSpec| conv.build(spec.in_block(cin), init);
                blocks.push(Bottleneck {
                    shared: conv.shared(cin, init),
                    expand: (stage.expansion > 1).then(|| site(SiteSpec::pointwise(cin, hidden))).transpose()?,
                    depthwise: site(SiteSpec::depthwise(hidden, 3, stride))?,
                    project: site(SiteSpec::pointwise(hidden, cout))?,
                    residual: stride == 1 && cin == cout,
                });
                cin = cout;
            }
        }
        let features = features(width);
        let head = conv.build(SiteSpec::pointwise(cin, features).fixed(), init)?;
        let mut classifier = Linear::new(features, classes, init);
        classifier.weight.value = init.normal([classes, features], 0.01);
        classifier.bias.value = Tensor::zeros([classes]);
        Ok(MobileNetV2 { stem, blocks, head, classifier })
    }
}

impl<T: Real, S: BackboneSite<T>> Network<T> for MobileNetV2<T, S> {
    fn forward(&self, cx: &Cx<T>, x: &Var<T>) -> Result<Var<T>> {
        let x = run(cx, "stem", &self.stem, x, Activation::Relu6)?;
        let x = run_blocks(cx, &self.blocks, x)?;
        let x = run(cx, "head", &self.head, &x, Activation::Relu6)?;
        cx.scope("classifier", &x.global_avg_pool()?, |x| self.classifier.forward(cx, x))
    }

    fn sites(&self) -> Vec<(String, &dyn Site<T>)> {
        let mut sites = vec![("stem".to_owned(), &self.stem as &dyn Site<T>)];
        sites.extend(sites_of_blocks(&self.blocks, Bottleneck::sites));
        sites.push(("head".to_owned(), &self.head));
        sites
    }

    fn layers(&self, mut map: [usize; 2]) -> Result<Vec<LayerCost>> {
        let mut layers = vec![LayerCost::of_site("stem".to_owned(), &self.stem, &mut map)?];
        for (i, block) in self.blocks.iter().enumerate() {
            layers.extend(LayerCost::of_shared(&block_path(i), block.shared.as_ref())?);
            layers.extend(LayerCost::of_sites(&block_path(i), block.sites(), &mut map)?);
        }
        layers.push(LayerCost::of_site("head".to_owned(), &self.head, &mut map)?);
        layers.push(LayerCost::of_classifier(&self.classifier)?);
        Ok(layers)
    }

    fn fold(&self) -> Result<Box<dyn Network<T>>, NotFoldable> {
        Ok(Box::new(MobileNetV2 {
            stem: self.stem.folded_at("stem")?,
            blocks: fold_blocks(&self.blocks, Bottleneck::folded)?,
            head: self.head.folded_at("head")?,
            classifier: self.classifier.clone(),
        }))
    }

    fn plan(&self, plan: &mut Builder<T>, x: Map) -> Result<Option<Map>> {
        let Some(x) = plan_site(plan, "stem", &self.stem, x, Activation::Relu6)? else { return Ok(None) };
        let Some(x) = plan_blocks(plan, &self.blocks, x)? else { return Ok(None) };
        let Some(x) = plan_site(plan, "head", &self.head, x, Activation::Relu6)? else { return Ok(None) };
        plan_classifier(plan, &self.classifier, x)
    }
}

#[cfg(test)]
mod tests;

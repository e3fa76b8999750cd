//! ResNet18 (He et al. 2016, arXiv 1512.03385, table 1): a 7x7 stem and a max-pool, eight basic blocks of two 3x3
//! convolutions, a global average pool and a classifier. ReLU follows every convolution but the last of a block.
//!
//! ```text
//! y = ReLU(second(ReLU(first(x))) + shortcut(x))    shortcut: 1x1 where the shape changes, else x itself
//! ```
//! Channels, initial values and counts are those of torchvision's `resnet18`. The CIFAR form has a 3x3 stem of stride 1 and no
//! max-pool. The kind of convolution replaces the sixteen 3x3 convolutions of the blocks.

use gatefold_autograd::Var;
use gatefold_layers::{
    Activation, ConvKind, Cx, Folded, Init, Linear, Module, Shared, Site, SiteSpec, TrainedSite, Walk, join,
    walk_fields,
};
use gatefold_tensor::plan::{Builder, Map};
use gatefold_tensor::{Error, Real, Result};

use crate::network::{
    Block, MaxPool, block_path, fold_blocks, plan_blocks, plan_classifier, plan_sharing, plan_site, run, run_blocks,
    sharing, sites_of_blocks,
};
use crate::{BackboneSite, LayerCost, Network, NotFoldable, Resolution};

/// Output channels of the stages at width 1; those of the stem are the first.
pub(crate) const STAGES: [usize; 4] = [64, 128, 256, 512];
/// Blocks in a stage.
pub(crate) const BLOCKS: usize = 2;
/// The widest network: 16 times the parameters.
const MAX_WIDTH: f64 = 4.0;

/// ResNet18 with sites of type `S`.
pub struct ResNet18<T: Real, S> {
    /// 7x7 of stride 2, or 3x3 of stride 1, input channels → 64.
    pub stem: S,
    /// Behind the stem, in the ImageNet form.
    pub pool: Option<MaxPool>,
    /// The basic blocks.
    pub blocks: Vec<BasicBlock<T, S>>,
    /// Channels → classes.
    pub classifier: Linear<T>,
}

walk_fields!(impl<T, S: Walk<T>> ResNet18<T, S> { stem, blocks, classifier });

/// Two 3x3 convolutions beside a shortcut.
pub struct BasicBlock<T: Real, S> {
    /// What the sites share, made of the input.
    pub shared: Option<Shared<T>>,
    /// 3x3, with the stride of the block.
    pub first: S,
    /// 3x3 of stride 1.
    pub second: S,
    /// 1x1, where channels or stride change the shape.
    pub shortcut: Option<S>,
}

walk_fields!(impl<T, S: Walk<T>> BasicBlock<T, S> { shared, first, second, shortcut });

impl<T: Real, S> BasicBlock<T, S> {
    fn sites(&self) -> impl Iterator<Item = (&'static str, &S)> {
        let shortcut = self.shortcut.iter().map(|site| ("shortcut", site));
        [("first", &self.first), ("second", &self.second)].into_iter().chain(shortcut)
    }

    fn folded(&self, path: &str) -> Result<BasicBlock<T, Folded<T>>, NotFoldable>
    where
        S: BackboneSite<T>,
    {
        Ok(BasicBlock {
            shared: self.shared.clone(),
            first: self.first.folded_at(&join(path, "first"))?,
            second: self.second.folded_at(&join(path, "second"))?,
            shortcut: self.shortcut.as_ref().map(|site| site.folded_at(&join(path, "shortcut"))).transpose()?,
        })
    }
}

impl<T: Real, S: Site<T>> Block<T> for BasicBlock<T, S> {
    fn forward(&self, cx: &Cx<T>, x: &Var<T>) -> Result<Var<T>> {
        // ANCHOR: basic_block
        sharing(cx, self.shared.as_ref(), x, || {
            let y = run(cx, "first", &self.first, x, Activation::Relu)?;
            let y = run(cx, "second", &self.second, &y, Activation::Identity)?;
            let shortcut = match &self.shortcut {
                Some(shortcut) => run(cx, "shortcut", shortcut, x, Activation::Identity)?,
                None => x.clone(),
            };
            Var::sum_maps(&[&y, &shortcut], Activation::Relu.into())
        })
        // ANCHOR_END: basic_block
    }

    fn plan(&self, plan: &mut Builder<T>, x: Map) -> Result<Option<Map>> {
        plan_sharing(plan, self.shared.as_ref(), x, |plan| {
            let Some(y) = plan_site(plan, "first", &self.first, x, Activation::Relu)? else { return Ok(None) };
            let Some(y) = plan_site(plan, "second", &self.second, y, Activation::Identity)? else { return Ok(None) };
            let shortcut = match &self.shortcut {
                Some(shortcut) => plan_site(plan, "shortcut", shortcut, x, Activation::Identity)?,
                None => Some(x),
            };
            shortcut.map(|shortcut| plan.add(y, shortcut, Activation::Relu.into())).transpose()
        })
    }
}

impl<T: Real> ResNet18<T, Box<dyn TrainedSite<T>>> {
    /// A new network; `width` scales every layer.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the width is above 4 or leaves no channels, or the options of `conv` do not fit a site.
    pub fn new(
        conv: &ConvKind,
        resolution: Resolution,
        input_channels: usize,
        classes: usize,
        width: f64,
        init: Init,
    ) -> Result<Self> {
        let channels = STAGES.map(|c| (c as f64 * width).round() as usize);
        if channels[0] == 0 || !(width > 0.0 && width <= MAX_WIDTH) {
            let why = format!("the width {width} is above {MAX_WIDTH} or leaves a layer without channels");
            return Err(Error::invalid("resnet18", why));
        }
        let init = &init.kaiming_fan_out();
        let (stem, pool) = match resolution {
            Resolution::Cifar => (SiteSpec::same(input_channels, channels[0], 3, 1), None),
            Resolution::Imagenet => (SiteSpec::same(input_channels, channels[0], 7, 2), Some(MaxPool)),
        };
        let stem = conv.build(stem.fixed(), init)?;
        let mut blocks = Vec::new();
        let mut cin = channels[0];
        for (stage, cout) in channels.into_iter().enumerate() {
            for i in 0..BLOCKS {
                let stride = if i == 0 && stage > 0 { 2 } else { 1 };
                let shortcut = SiteSpec { stride, ..SiteSpec::pointwise(cin, cout) }.fixed();
                let site = |spec: SiteSpec| conv.build(spec.in_block(cin), init);
                blocks.push(BasicBlock {
                    shared: conv.shared(cin, init),
                    first: site(SiteSpec::same(cin, cout, 3, stride))?,
                    second: site(SiteSpec::same(cout, cout, 3, 1))?,
                    shortcut: (stride > 1 || cin != cout).then(|| site(shortcut)).transpose()?,
                });
                cin = cout;
            }
        }
        Ok(ResNet18 { stem, pool, blocks, classifier: Linear::new(cin, classes, init) })
    }
}

impl<T: Real, S: BackboneSite<T>> Network<T> for ResNet18<T, S> {
    fn forward(&self, cx: &Cx<T>, x: &Var<T>) -> Result<Var<T>> {
        let mut x = run(cx, "stem", &self.stem, x, Activation::Relu)?;
        if let Some(pool) = &self.pool {
            x = pool.forward(&x)?;
        }
        let x = run_blocks(cx, &self.blocks, x)?;
        cx.scope("classifier", &x.global_avg_pool()?, |x| self.classifier.forward(cx, x))
    }

    fn sites(&self) -> Vec<(String, &dyn Site<T>)> {
        let mut sites = vec![("stem".to_owned(), &self.stem as &dyn Site<T>)];
        sites.extend(sites_of_blocks(&self.blocks, BasicBlock::sites));
        sites
    }

    fn layers(&self, mut map: [usize; 2]) -> Result<Vec<LayerCost>> {
        let mut layers = vec![LayerCost::of_site("stem".to_owned(), &self.stem, &mut map)?];
        if let Some(pool) = &self.pool {
            map = pool.output(map)?;
        }
        for (i, block) in self.blocks.iter().enumerate() {
            layers.extend(LayerCost::of_shared(&block_path(i), block.shared.as_ref())?);
            let mut input = map;
            for (name, site) in block.sites() {
                let map = if name == "shortcut" { &mut input } else { &mut map };
                layers.push(LayerCost::of_site(join(&block_path(i), name), site, map)?);
            }
        }
        layers.push(LayerCost::of_classifier(&self.classifier)?);
        Ok(layers)
    }

    fn fold(&self) -> Result<Box<dyn Network<T>>, NotFoldable> {
        Ok(Box::new(ResNet18 {
            stem: self.stem.folded_at("stem")?,
            pool: self.pool,
            blocks: fold_blocks(&self.blocks, BasicBlock::folded)?,
            classifier: self.classifier.clone(),
        }))
    }

    fn plan(&self, plan: &mut Builder<T>, x: Map) -> Result<Option<Map>> {
        let Some(mut x) = plan_site(plan, "stem", &self.stem, x, Activation::Relu)? else { return Ok(None) };
        if let Some(pool) = &self.pool {
            x = pool.plan(plan, x)?;
        }
        let Some(x) = plan_blocks(plan, &self.blocks, x)? else { return Ok(None) };
        plan_classifier(plan, &self.classifier, x)
    }
}

#[cfg(test)]
mod tests;

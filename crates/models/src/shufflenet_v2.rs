//! ShuffleNetV2 (Ma et al. 2018, arXiv 1807.11164, table 5): a 3x3 stem and a max-pool, sixteen units in three stages, a 1x1
//! head, a global average pool and a classifier. ReLU follows every convolution but the depthwise ones.
//!
//! ```text
//! stride 1   y = shuffle([x₁ | right(x₂)]),  x = [x₁ | x₂] halved
//! stride 2   y = shuffle([left(x) | right(x)])                    left:  depthwise, 1x1
//!                                                                 right: 1x1, depthwise, 1x1
//! ```
//! Channels, the place of the shuffle, initial values and counts are those of torchvision's `shufflenet_v2_x0_5`, `x1_0`,
//! `x1_5` and `x2_0`. The CIFAR form has a stem of stride 1 and no max-pool. The kind of convolution replaces the 35 pointwise
//! convolutions of the units.

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

/// Output channels of the stem.
const STEM: usize = 24;
/// Units of the stages.
pub(crate) const UNITS: [usize; 3] = [4, 8, 4];
/// Output channels of the stages and of the head, by width.
pub(crate) const WIDTHS: [(f64, [usize; 3], usize); 4] = [
    (0.5, [48, 96, 192], 1024),
    (1.0, [116, 232, 464], 1024),
    (1.5, [176, 352, 704], 1024),
    (2.0, [244, 488, 976], 2048),
];

/// ShuffleNetV2 with sites of type `S`.
pub struct ShuffleNetV2<T: Real, S> {
    /// 3x3, input channels → 24.
    pub stem: S,
    /// Behind the stem, in the ImageNet form.
    pub pool: Option<MaxPool>,
    /// The units.
    pub blocks: Vec<Unit<T, S>>,
    /// 1x1 → 1024 or 2048 channels.
    pub head: S,
    /// Channels → classes.
    pub classifier: Linear<T>,
}

walk_fields!(impl<T, S: Walk<T>> ShuffleNetV2<T, S> { stem, blocks, head, classifier });

/// A unit: two branches, whose channels are shuffled.
pub struct Unit<T: Real, S> {
    /// What the sites share, made of the input of the right branch.
    pub shared: Option<Shared<T>>,
    /// In a unit of stride 2; else the first half of the channels passes by.
    pub left: Option<Left<S>>,
    /// The branch of every unit.
    pub right: Right<S>,
}

walk_fields!(impl<T, S: Walk<T>> Unit<T, S> { shared, left, right });

/// The branch of two convolutions.
pub struct Left<S> {
    /// 3x3 of each channel by itself, stride 2.
    pub depthwise: S,
    /// 1x1 to half of the unit's output channels.
    pub pointwise: S,
}

walk_fields!(impl<T, S: Walk<T>> Left<S> { depthwise, pointwise });

/// The branch of three convolutions.
pub struct Right<S> {
    /// 1x1 to half of the unit's output channels.
    pub pointwise1: S,
    /// 3x3 of each channel by itself, with the stride of the unit.
    pub depthwise: S,
    /// 1x1, as many channels.
    pub pointwise2: S,
}

walk_fields!(impl<T, S: Walk<T>> Right<S> { pointwise1, depthwise, pointwise2 });

/// What follows a site of a unit.
fn activation_behind(name: &str) -> Activation {
    if name.ends_with("depthwise") { Activation::Identity } else { Activation::Relu }
}

impl<T: Real, S> Unit<T, S> {
    fn left_sites(&self) -> impl Iterator<Item = (&'static str, &S)> {
        self.left
            .iter()
            .flat_map(|Left { depthwise, pointwise }| [("left.depthwise", depthwise), ("left.pointwise", pointwise)])
    }

    fn right_sites(&self) -> [(&'static str, &S); 3] {
        let Right { pointwise1, depthwise, pointwise2 } = &self.right;
        [("right.pointwise1", pointwise1), ("right.depthwise", depthwise), ("right.pointwise2", pointwise2)]
    }

    fn sites(&self) -> impl Iterator<Item = (&'static str, &S)> {
        self.left_sites().chain(self.right_sites())
    }

    fn folded(&self, path: &str) -> Result<Unit<T, Folded<T>>, NotFoldable>
    where
        S: BackboneSite<T>,
    {
        let fold = |site: &S, name| site.folded_at(&join(path, name));
        let left = self.left.as_ref().map(|left| {
            Ok(Left {
                depthwise: fold(&left.depthwise, "left.depthwise")?,
                pointwise: fold(&left.pointwise, "left.pointwise")?,
            })
        });
        let Right { pointwise1, depthwise, pointwise2 } = &self.right;
        Ok(Unit {
            shared: self.shared.clone(),
            left: left.transpose()?,
            right: Right {
                pointwise1: fold(pointwise1, "right.pointwise1")?,
                depthwise: fold(depthwise, "right.depthwise")?,
                pointwise2: fold(pointwise2, "right.pointwise2")?,
            },
        })
    }
}

impl<T: Real, S: Site<T>> Block<T> for Unit<T, S> {
    fn forward(&self, cx: &Cx<T>, x: &Var<T>) -> Result<Var<T>> {
        // ANCHOR: unit
        let half = x.shape()[1] / 2;
        let right = if self.left.is_some() { x.clone() } else { x.narrow(1, half, half)? };
        sharing(cx, self.shared.as_ref(), &right, || {
            let left = match &self.left {
                Some(left) => {
                    let y = run(cx, "left.depthwise", &left.depthwise, x, Activation::Identity)?;
                    run(cx, "left.pointwise", &left.pointwise, &y, Activation::Relu)?
                }
                None => x.narrow(1, 0, half)?,
            };
            let y = run(cx, "right.pointwise1", &self.right.pointwise1, &right, Activation::Relu)?;
            let y = run(cx, "right.depthwise", &self.right.depthwise, &y, Activation::Identity)?;
            let y = run(cx, "right.pointwise2", &self.right.pointwise2, &y, Activation::Relu)?;
            Var::concat(&[left, y], 1)?.channel_shuffle(2)
        })
        // ANCHOR_END: unit
    }

    fn plan(&self, plan: &mut Builder<T>, x: Map) -> Result<Option<Map>> {
        let mut right = x;
        if self.left.is_none() {
            let [c, ..] = plan.shape(x);
            right = plan.gather(&(c / 2..c).map(|channel| (x, channel)).collect::<Vec<_>>())?;
        }
        plan_sharing(plan, self.shared.as_ref(), right, |plan| {
            let Some(left) = plan_branch(plan, self.left_sites(), x)? else { return Ok(None) };
            let Some(right) = plan_branch(plan, self.right_sites(), right)? else { return Ok(None) };
            let [half, ..] = plan.shape(right);
            let shuffled: Vec<_> = (0..half).flat_map(|channel| [(left, channel), (right, channel)]).collect();
            plan.gather(&shuffled).map(Some)
        })
    }
}

/// The steps of the sites of a branch, one after the other.
fn plan_branch<'s, T: Real, S: Site<T> + 's>(
    plan: &mut Builder<T>,
    sites: impl IntoIterator<Item = (&'static str, &'s S)>,
    mut x: Map,
) -> Result<Option<Map>> {
    for (name, site) in sites {
        let Some(y) = plan_site(plan, name, site, x, activation_behind(name))? else { return Ok(None) };
        x = y;
    }
    Ok(Some(x))
}

impl<T: Real> ShuffleNetV2<T, Box<dyn TrainedSite<T>>> {
    /// A new network of one of the four widths of the paper.
    ///
    /// # Errors
    /// [`Error::Invalid`] if there is no such width or the options of `conv` do not fit a site.
    pub fn new(
        conv: &ConvKind,
        resolution: Resolution,
        input_channels: usize,
        classes: usize,
        width: f64,
        init: &Init,
    ) -> Result<Self> {
        let Some((_, channels, features)) = WIDTHS.iter().find(|(of, ..)| *of == width) else {
            let why = format!("there is no width {width}: the paper has 0.5, 1, 1.5 and 2");
            return Err(Error::invalid("shufflenetv2", why));
        };
        let (stride, pool) = match resolution {
            Resolution::Cifar => (1, None),
            Resolution::Imagenet => (2, Some(MaxPool)),
        };
        let stem = conv.build(SiteSpec::same(input_channels, STEM, 3, stride).fixed(), init)?;
        let mut blocks = Vec::new();
        let mut cin = STEM;
        for (&cout, units) in channels.iter().zip(UNITS) {
            let half = cout / 2;
            for i in 0..units {
                let stride = if i == 0 { 2 } else { 1 };
                let right = if i == 0 { cin } else { half };
                let site = |spec: SiteSpec| conv.build(spec.in_block(right), init);
                let left = (i == 0).then(|| -> Result<_> {
                    Ok(Left {
                        depthwise: site(SiteSpec::depthwise(cin, 3, stride))?,
                        pointwise: site(SiteSpec::pointwise(cin, half))?,
                    })
                });
                blocks.push(Unit {
                    shared: conv.shared(right, init),
                    left: left.transpose()?,
                    right: Right {
                        pointwise1: site(SiteSpec::pointwise(right, half))?,
                        depthwise: site(SiteSpec::depthwise(half, 3, stride))?,
                        pointwise2: site(SiteSpec::pointwise(half, half))?,
                    },
                });
            }
            cin = cout;
        }
        let head = conv.build(SiteSpec::pointwise(cin, *features).fixed(), init)?;
        Ok(ShuffleNetV2 { stem, pool, blocks, head, classifier: Linear::new(*features, classes, init) })
    }
}

impl<T: Real, S: BackboneSite<T>> Network<T> for ShuffleNetV2<T, S> {
    fn forward(&self, cx: &Cx<T>, x: &Var<T>) -> Result<Var<T>> {
        let mut x = run(cx, "stem", &self.stem, x, Activation::Relu)?;
        if let Some(pool) = &self.pool {
            x = pool.forward(&x)?;
        }
        let x = run_blocks(cx, &self.blocks, x)?;
        let x = run(cx, "head", &self.head, &x, Activation::Relu)?;
        cx.scope("classifier", &x.global_avg_pool()?, |x| self.classifier.forward(cx, x))
    }

    fn sites(&self) -> Vec<(String, &dyn Site<T>)> {
        let mut sites = vec![("stem".to_owned(), &self.stem as &dyn Site<T>)];
        sites.extend(sites_of_blocks(&self.blocks, Unit::sites));
        sites.push(("head".to_owned(), &self.head));
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
            layers.extend(LayerCost::of_sites(&block_path(i), block.left_sites(), &mut input)?);
            layers.extend(LayerCost::of_sites(&block_path(i), block.right_sites(), &mut map)?);
        }
        layers.push(LayerCost::of_site("head".to_owned(), &self.head, &mut map)?);
        layers.push(LayerCost::of_classifier(&self.classifier)?);
        Ok(layers)
    }

    fn fold(&self) -> Result<Box<dyn Network<T>>, NotFoldable> {
        Ok(Box::new(ShuffleNetV2 {
            stem: self.stem.folded_at("stem")?,
            pool: self.pool,
            blocks: fold_blocks(&self.blocks, Unit::folded)?,
            head: self.head.folded_at("head")?,
            classifier: self.classifier.clone(),
        }))
    }

    fn plan(&self, plan: &mut Builder<T>, x: Map) -> Result<Option<Map>> {
        let Some(mut x) = plan_site(plan, "stem", &self.stem, x, Activation::Relu)? else { return Ok(None) };
        if let Some(pool) = &self.pool {
            x = pool.plan(plan, x)?;
        }
        let Some(x) = plan_blocks(plan, &self.blocks, x)? else { return Ok(None) };
        let Some(x) = plan_site(plan, "head", &self.head, x, Activation::Relu)? else { return Ok(None) };
        plan_classifier(plan, &self.classifier, x)
    }
}

#[cfg(test)]
mod tests;

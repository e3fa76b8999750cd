//! RepVGG (Ding et al. 2021, arXiv 2101.03697, table 2): 3x3 convolutions in a row with a ReLU behind each, a global average
//! pool and a classifier. What makes it trainable stands inside its sites: `--conv repvgg`.
//!
//! ```text
//! stem    3x3, stride 2   min(64, 64a)
//! stage   1     2     3     4                 the first block of each stage has stride 2
//! blocks  2     4     14    1                 A; B: 4, 6, 16, 1
//! output  64a   128a  256a  512b              a and b: see `Variant`
//! ```
//! In a variant of g groups every second block has g groups: the stem is layer 0, and layers 2, 4, … have them. Channels,
//! groups, initial values and counts are those of the authors' code; its squeeze-and-excitation variant is not offered. The
//! width multiplies a and b, so that it leaves the stem at 64 channels where there would be more. The CIFAR form has stride 1
//! in the stem and in the first stage, and ends with a map of 4 x 4. The kind of convolution replaces every convolution, the
//! stem's too, so that its options have to fit that: WeightNet needs `g=1`, as the 27 weights of an output have no half.

use std::iter;

use gatefold_autograd::Var;
use gatefold_layers::{
    Activation, ConvKind, Cx, Entry, EntryMut, Folded, Init, Linear, Module, Shared, Site, SiteSpec, TrainedSite, Walk,
    join, walk_fields,
};
use gatefold_tensor::plan::{Builder, Map};
use gatefold_tensor::{Error, Real, Result};

use crate::network::{Block, block_path, fold_blocks, plan_classifier, plan_sharing, sharing};
use crate::{BackboneSite, LayerCost, Network, NotFoldable, Resolution};

/// Output channels of the stages for multipliers of 1; no stem has more than the first.
const STAGES: [usize; 4] = [64, 128, 256, 512];
/// The widest network: four times the parameters.
const MAX_WIDTH: f64 = 2.0;

/// A network of the authors' by its name: the letter says how many blocks there are, the digit how wide they are, and `g` is
/// followed by the groups of every second block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "named by the authors")]
pub enum Variant {
    A0,
    A1,
    A2,
    B0,
    B1,
    B1g2,
    B1g4,
    B2,
    B2g2,
    B2g4,
    B3,
    B3g2,
    B3g4,
}

impl Variant {
    /// Every variant.
    pub const ALL: [Variant; 13] = {
        use Variant::*;
        [A0, A1, A2, B0, B1, B1g2, B1g4, B2, B2g2, B2g4, B3, B3g2, B3g4]
    };

    /// Blocks in each stage.
    pub fn blocks(self) -> [usize; 4] {
        use Variant::*;
        if matches!(self, A0 | A1 | A2) { [2, 4, 14, 1] } else { [4, 6, 16, 1] }
    }

    /// a, of the first three stages, and b, of the last.
    fn multipliers(self) -> [f64; 2] {
        use Variant::*;
        match self {
            A0 => [0.75, 2.5],
            A1 | B0 => [1.0, 2.5],
            A2 => [1.5, 2.75],
            B1 | B1g2 | B1g4 => [2.0, 4.0],
            B2 | B2g2 | B2g4 => [2.5, 5.0],
            B3 | B3g2 | B3g4 => [3.0, 5.0],
        }
    }

    /// Groups of every second block.
    pub fn groups(self) -> usize {
        use Variant::*;
        match self {
            A0 | A1 | A2 | B0 | B1 | B2 | B3 => 1,
            B1g2 | B2g2 | B3g2 => 2,
            B1g4 | B2g4 | B3g4 => 4,
        }
    }

    /// Output channels of the stem and of the stages; multiples of the groups, none of which is left without any.
    pub fn channels(self, width: f64) -> [usize; 5] {
        let ([a, b], groups) = (self.multipliers(), self.groups() as f64);
        let scaled = |channels: usize, by: f64| ((channels as f64 * by * width / groups).round() * groups) as usize;
        let [first, second, third, last] = STAGES;
        let stage1 = scaled(first, a);
        [stage1.min(first), stage1, scaled(second, a), scaled(third, a), scaled(last, b)]
    }

    /// The width at which the first stage has so many channels.
    pub(crate) fn width(self, stage1: usize) -> f64 {
        stage1 as f64 / (STAGES[0] as f64 * self.multipliers()[0])
    }

    /// Every convolution, from the stem on.
    fn places(self, resolution: Resolution, input_channels: usize, width: f64) -> Vec<SiteSpec> {
        let strides = match resolution {
            Resolution::Cifar => [1, 1, 2, 2, 2],
            Resolution::Imagenet => [2; 5],
        };
        let [stem, stages @ ..] = self.channels(width);
        let mut places = vec![SiteSpec::same(input_channels, stem, 3, strides[0])];
        let mut cin = stem;
        for ((cout, blocks), stride) in stages.into_iter().zip(self.blocks()).zip(&strides[1..]) {
            for i in 0..blocks {
                let groups = if places.len().is_multiple_of(2) { self.groups() } else { 1 };
                let stride = if i == 0 { *stride } else { 1 };
                places.push(SiteSpec { groups, ..SiteSpec::same(cin, cout, 3, stride) });
                cin = cout;
            }
        }
        places
    }
}

/// RepVGG with sites of type `S`.
pub struct RepVgg<T: Real, S> {
    /// Input channels → at most 64.
    pub stem: Layer<T, S>,
    /// The blocks of all stages.
    pub blocks: Vec<Layer<T, S>>,
    /// Channels → classes.
    pub classifier: Linear<T>,
}

walk_fields!(impl<T, S: Walk<T>> RepVgg<T, S> { stem, blocks, classifier });

/// A block of one site, whose keys are those of the site.
pub struct Layer<T: Real, S> {
    /// What the site would share with others, made of the input.
    pub shared: Option<Shared<T>>,
    /// 3x3.
    pub site: S,
}

impl<T: Real, S: Walk<T>> Walk<T> for Layer<T, S> {
    fn walk<'a>(&'a self, prefix: &str, visit: &mut dyn FnMut(&str, Entry<'a, T>)) {
        self.shared.walk(&join(prefix, "shared"), visit);
        self.site.walk(prefix, visit);
    }

    fn walk_mut<'a>(&'a mut self, prefix: &str, visit: &mut dyn FnMut(&str, EntryMut<'a, T>)) {
        self.shared.walk_mut(&join(prefix, "shared"), visit);
        self.site.walk_mut(prefix, visit);
    }
}

impl<T: Real, S: BackboneSite<T>> Layer<T, S> {
    fn folded(&self, path: &str) -> Result<Layer<T, Folded<T>>, NotFoldable> {
        Ok(Layer { shared: self.shared.clone(), site: self.site.folded_at(path)? })
    }
}

impl<T: Real, S: Site<T>> Block<T> for Layer<T, S> {
    fn forward(&self, cx: &Cx<T>, x: &Var<T>) -> Result<Var<T>> {
        sharing(cx, self.shared.as_ref(), x, || self.site.forward(cx, x, Activation::Relu))
    }

    fn plan(&self, plan: &mut Builder<T>, x: Map) -> Result<Option<Map>> {
        plan_sharing(plan, self.shared.as_ref(), x, |plan| self.site.plan(plan, x, Activation::Relu))
    }
}

impl<T: Real> RepVgg<T, Box<dyn TrainedSite<T>>> {
    /// A new network; `width` scales every layer, the stem up to 64 channels.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the width is above 2 or leaves no channels, or the options of `conv` do not fit a site.
    pub fn new(
        variant: Variant,
        conv: &ConvKind,
        resolution: Resolution,
        input_channels: usize,
        classes: usize,
        width: f64,
        init: &Init,
    ) -> Result<Self> {
        if !(width > 0.0 && width <= MAX_WIDTH) || variant.channels(width).contains(&0) {
            let why = format!("the width {width} is above {MAX_WIDTH} or leaves a layer without channels");
            return Err(Error::invalid("repvgg", why));
        }
        let layer = |place: SiteSpec| -> Result<_> {
            Ok(Layer { shared: conv.shared(place.cin, init), site: conv.build(place, init)? })
        };
        let mut places = variant.places(resolution, input_channels, width).into_iter();
        let stem = layer(places.next().expect("the stem comes first"))?;
        let blocks = places.map(layer).collect::<Result<_>>()?;
        let [.., features] = variant.channels(width);
        Ok(RepVgg { stem, blocks, classifier: Linear::new(features, classes, init) })
    }
}

impl<T: Real, S> RepVgg<T, S> {
    /// Every layer but the classifier with its path.
    fn row(&self) -> impl Iterator<Item = (String, &Layer<T, S>)> {
        let blocks = self.blocks.iter().enumerate().map(|(i, block)| (block_path(i), block));
        iter::once(("stem".to_owned(), &self.stem)).chain(blocks)
    }
}

impl<T: Real, S: BackboneSite<T>> Network<T> for RepVgg<T, S> {
    // ANCHOR: forward
    fn forward(&self, cx: &Cx<T>, x: &Var<T>) -> Result<Var<T>> {
        let mut x = x.clone();
        for (path, layer) in self.row() {
            x = cx.scope(&path, &x, |x| layer.forward(cx, x))?;
        }
        cx.scope("classifier", &x.global_avg_pool()?, |x| self.classifier.forward(cx, x))
    }
    // ANCHOR_END: forward

    fn sites(&self) -> Vec<(String, &dyn Site<T>)> {
        self.row().map(|(path, layer)| (path, &layer.site as &dyn Site<T>)).collect()
    }

    fn layers(&self, mut map: [usize; 2]) -> Result<Vec<LayerCost>> {
        let mut layers = Vec::new();
        for (path, layer) in self.row() {
            layers.extend(LayerCost::of_shared(&path, layer.shared.as_ref())?);
            layers.push(LayerCost::of_site(path, &layer.site, &mut map)?);
        }
        layers.push(LayerCost::of_classifier(&self.classifier)?);
        Ok(layers)
    }

    fn fold(&self) -> Result<Box<dyn Network<T>>, NotFoldable> {
        Ok(Box::new(RepVgg {
            stem: self.stem.folded("stem")?,
            blocks: fold_blocks(&self.blocks, Layer::folded)?,
            classifier: self.classifier.clone(),
        }))
    }

    fn plan(&self, plan: &mut Builder<T>, mut x: Map) -> Result<Option<Map>> {
        for (path, layer) in self.row() {
            let Some(y) = layer.plan(plan, x).map_err(|e| e.in_layer(&path))? else { return Ok(None) };
            x = y;
        }
        plan_classifier(plan, &self.classifier, x)
    }
}

#[cfg(test)]
mod tests;

//! SmallNet, the small network of the paper: a 3x3 stem, three pairs of a pointwise and a strided depthwise
//! convolution, a global average pool and a classifier. Batch norm and ReLU follow every convolution.
//!
//! On 3 x 32 x 32 with ten classes: 5,386 parameters and 1,031,808 multiply-accumulates, static (paper 7.5). The kind of
//! convolution replaces the three pointwise convolutions.

use gatefold_autograd::Var;
use gatefold_layers::{
    Activation, ConvKind, Cx, Folded, Init, Linear, Module, Shared, Site, SiteSpec, TrainedSite, Walk, join,
    walk_fields,
};
use gatefold_tensor::plan::{Builder, Map};
use gatefold_tensor::{Error, Real, Result};

use crate::network::{
    block_path, fold_blocks, plan_blocks, plan_classifier, plan_sharing, plan_site, run, run_blocks, sharing,
    sites_of_blocks,
};
use crate::{BackboneSite, LayerCost, Network, NotFoldable, network};

/// Output channels of the stem; the width does not change them.
const STEM: usize = 16;
/// Output channels of the blocks at width 1.
const BLOCKS: [usize; 3] = [16, 32, 64];

/// SmallNet with sites of type `S`.
pub struct SmallNet<T: Real, S> {
    /// 3x3, input channels → 16.
    pub stem: S,
    /// Pointwise and depthwise, three times.
    pub blocks: Vec<Block<T, S>>,
    /// Channels → classes.
    pub classifier: Linear<T>,
}

walk_fields!(impl<T, S: Walk<T>> SmallNet<T, S> { stem, blocks, classifier });

/// A pointwise convolution and a depthwise one of stride 2 behind it.
pub struct Block<T: Real, S> {
    /// What the sites share, made of the input.
    pub shared: Option<Shared<T>>,
    /// 1x1, the site that the kind of convolution replaces.
    pub pointwise: S,
    /// 3x3 of each channel by itself, stride 2.
    pub depthwise: S,
}

walk_fields!(impl<T, S: Walk<T>> Block<T, S> { shared, pointwise, depthwise });

impl<T: Real, S> Block<T, S> {
    fn sites(&self) -> [(&'static str, &S); 2] {
        [("pointwise", &self.pointwise), ("depthwise", &self.depthwise)]
    }

    fn folded(&self, path: &str) -> Result<Block<T, Folded<T>>, NotFoldable>
    where
        S: BackboneSite<T>,
    {
        Ok(Block {
            shared: self.shared.clone(),
            pointwise: self.pointwise.folded_at(&join(path, "pointwise"))?,
            depthwise: self.depthwise.folded_at(&join(path, "depthwise"))?,
        })
    }
}

impl<T: Real, S: Site<T>> network::Block<T> for Block<T, S> {
    fn forward(&self, cx: &Cx<T>, x: &Var<T>) -> Result<Var<T>> {
        sharing(cx, self.shared.as_ref(), x, || {
            let y = run(cx, "pointwise", &self.pointwise, x, Activation::Relu)?;
            run(cx, "depthwise", &self.depthwise, &y, Activation::Relu)
        })
    }

    fn plan(&self, plan: &mut Builder<T>, x: Map) -> Result<Option<Map>> {
        plan_sharing(plan, self.shared.as_ref(), x, |plan| {
            let y = plan_site(plan, "pointwise", &self.pointwise, x, Activation::Relu)?;
            let Some(y) = y else { return Ok(None) };
            plan_site(plan, "depthwise", &self.depthwise, y, Activation::Relu)
        })
    }
}

impl<T: Real> SmallNet<T, Box<dyn TrainedSite<T>>> {
    /// A new network; `width` scales every layer but the stem.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the width leaves no channels or the options of `conv` do not fit a site.
    pub fn new(conv: &ConvKind, input_channels: usize, classes: usize, width: f64, init: &Init) -> Result<Self> {
        let channels = BLOCKS.map(|c| (c as f64 * width).round() as usize);
        if channels.contains(&0) || !width.is_finite() {
            return Err(Error::invalid("smallnet", format!("width {width} leaves a layer without channels")));
        }
        let stem = conv.build(SiteSpec::same(input_channels, STEM, 3, 1).fixed(), init)?;
        let mut blocks = Vec::new();
        let mut cin = STEM;
        for cout in channels {
            blocks.push(Block {
                shared: conv.shared(cin, init),
                pointwise: conv.build(SiteSpec::pointwise(cin, cout), init)?,
                depthwise: conv.build(SiteSpec::depthwise(cout, 3, 2).in_block(cin), init)?,
            });
            cin = cout;
        }
        Ok(SmallNet { stem, blocks, classifier: Linear::new(cin, classes, init) })
    }
}

impl<T: Real, S: BackboneSite<T>> Network<T> for SmallNet<T, S> {
    // ANCHOR: forward
    fn forward(&self, cx: &Cx<T>, x: &Var<T>) -> Result<Var<T>> {
        let x = run(cx, "stem", &self.stem, x, Activation::Relu)?;
        let x = run_blocks(cx, &self.blocks, x)?;
        cx.scope("classifier", &x.global_avg_pool()?, |x| self.classifier.forward(cx, x))
    }
    // ANCHOR_END: forward

    fn sites(&self) -> Vec<(String, &dyn Site<T>)> {
        let mut sites = vec![("stem".to_owned(), &self.stem as &dyn Site<T>)];
        sites.extend(sites_of_blocks(&self.blocks, Block::sites));
        sites
    }

    fn layers(&self, mut map: [usize; 2]) -> Result<Vec<LayerCost>> {
        let mut layers = vec![LayerCost::of_site("stem".to_owned(), &self.stem, &mut map)?];
        for (i, block) in self.blocks.iter().enumerate() {
            layers.extend(LayerCost::of_shared(&block_path(i), block.shared.as_ref())?);
            layers.extend(LayerCost::of_sites(&block_path(i), block.sites(), &mut map)?);
        }
        layers.push(LayerCost::of_classifier(&self.classifier)?);
        Ok(layers)
    }

    fn fold(&self) -> Result<Box<dyn Network<T>>, NotFoldable> {
        Ok(Box::new(SmallNet {
            stem: self.stem.folded_at("stem")?,
            blocks: fold_blocks(&self.blocks, Block::folded)?,
            classifier: self.classifier.clone(),
        }))
    }

    fn plan(&self, plan: &mut Builder<T>, x: Map) -> Result<Option<Map>> {
        let Some(x) = plan_site(plan, "stem", &self.stem, x, Activation::Relu)? else { return Ok(None) };
        let Some(x) = plan_blocks(plan, &self.blocks, x)? else { return Ok(None) };
        plan_classifier(plan, &self.classifier, x)
    }
}

#[cfg(test)]
mod tests {
    use gatefold_layers::{BranchActivation, Form, MaConv, MdConv};

    use super::*;
    use crate::{Description, Model, Summary, description::Backbone, description::Normalisation};

    fn model(conv: ConvKind, width: f64) -> Model<f32> {
        let description = Description {
            backbone: Backbone::SmallNet,
            width,
            conv,
            folded: false,
            input: [3, 32, 32],
            classes: (0..10).map(|i| i.to_string()).collect(),
            dataset: "cifar10".to_owned(),
            normalisation: Normalisation { maximum: 255, mean: vec![0.0; 3], std: vec![1.0; 3] },
        };
        Model::new(description, 0).unwrap()
    }

    fn named(name: &str) -> ConvKind {
        ConvKind::named(name).unwrap()
    }

    /// Parameters as trained and as deployed.
    fn parameters(conv: ConvKind, width: f64) -> (usize, usize) {
        let summary = Summary::of(&model(conv, width)).unwrap();
        (summary.trained().parameters, summary.folded().unwrap().parameters)
    }

    #[test]
    fn the_counts_of_the_paper() {
        // Paper 2.13 and 7.5: a folded convolution has a bias in place of a batch norm's two vectors.
        let batch_norms = 16 + 2 * (16 + 32 + 64);
        assert_eq!(parameters(named("static"), 1.0), (5_386, 5_386 - batch_norms));
        assert_eq!(parameters(named("maconv"), 1.0), (9_250, 5_386 - batch_norms));
        assert_eq!(parameters(named("mdconv"), 1.0), (10_030, 5_386 - batch_norms + 4_360));
    }

    #[test]
    fn the_counts_by_width_and_by_m() {
        for (width, fixed, extra) in
            [(0.5, 2_290, 2_566), (1.0, 5_386, 4_644), (2.0, 15_418, 9_280), (4.0, 50_842, 20_472)]
        {
            assert_eq!(parameters(named("static"), width).0, fixed);
            assert_eq!(parameters(named("mdconv"), width).0, fixed + extra);
        }
        for (m, extra) in [(5, 1_629), (10, 2_634), (20, 4_644), (40, 8_664), (80, 16_704)] {
            assert_eq!(parameters(ConvKind::MdConv(MdConv { m, ..MdConv::default() }), 1.0).0, 5_386 + extra);
        }
    }

    #[test]
    fn the_multiply_accumulates_of_the_paper() {
        let fixed = Summary::of(&model(named("static"), 1.0)).unwrap();
        assert_eq!((fixed.trained().macs, fixed.folded().unwrap().macs), (1_031_808, 1_031_808));
        let dynamic = Summary::of(&model(named("mdconv"), 1.0)).unwrap();
        let attention: usize = [(16, 16), (16, 32), (32, 64)].iter().map(|(cin, _)| cin * cin / 4 + cin / 4 * 20).sum();
        let branch: usize =
            [(1024, 16, 16), (256, 16, 32), (64, 32, 64)].iter().map(|(p, i, o)| p * 20 * (i + o + 1)).sum();
        let composed: usize = [(16, 16), (16, 32), (32, 64)].iter().map(|(i, o)| 20 * o * i + 40 * o).sum();
        assert_eq!(dynamic.trained().macs, 1_031_808 + attention + branch);
        assert_eq!(dynamic.folded().unwrap().macs, 1_031_808 + attention + composed);
        // 2.08M and 1.09M, as the paper's table rounds them.
        assert_eq!((dynamic.trained().macs + 5_000) / 10_000, 208);
        assert_eq!((dynamic.folded().unwrap().macs + 5_000) / 10_000, 109);
        assert_eq!(dynamic.folded().unwrap().coefficients, 60);
        assert_eq!(dynamic.folded().unwrap().generated, 16 * 16 + 16 + 16 * 32 + 32 + 32 * 64 + 64);
        let asymmetric = Summary::of(&model(named("maconv"), 1.0)).unwrap();
        assert_eq!(asymmetric.folded().unwrap().macs, 1_031_808);
    }

    fn keys(conv: ConvKind, folded: bool) -> String {
        let model = model(conv, 1.0);
        let model = if folded { model.fold().unwrap() } else { model };
        let shapes = model.network.state();
        let first = |key: &&String| !key.starts_with("blocks.1") && !key.starts_with("blocks.2");
        shapes.keys().filter(first).map(|key| format!("{key} {:?}\n", shapes[key].shape())).collect()
    }

    const NORM: &str = "bias weight running_mean running_var";

    /// One line a key, from `prefix shape` and a list of names.
    fn expect(lines: &[(&str, &str, &str)]) -> String {
        let mut keys: Vec<_> = (lines.iter())
            .flat_map(|(prefix, names, shape)| names.split(' ').map(move |name| format!("{prefix}.{name} {shape}\n")))
            .collect();
        keys.sort();
        keys.concat()
    }

    #[test]
    fn the_keys_are_pinned() {
        let ends = [
            ("stem.conv", "weight", "[16, 3, 3, 3]"),
            ("stem.bn", NORM, "[16]"),
            ("blocks.0.depthwise.conv", "weight", "[16, 1, 3, 3]"),
            ("blocks.0.depthwise.bn", NORM, "[16]"),
            ("classifier", "weight", "[10, 64]"),
            ("classifier", "bias", "[10]"),
        ];
        let with = |site: &[(&str, &str, &str)]| {
            let site: Vec<_> = site.iter().map(|(p, n, s)| (format!("blocks.0.pointwise.{p}"), *n, *s)).collect();
            let mut lines = ends.to_vec();
            lines.extend(site.iter().map(|(p, n, s)| (p.as_str(), *n, *s)));
            expect(&lines)
        };
        let kernels = [
            ("bypass.conv", "weight", "[16, 16, 1, 1]"),
            ("branch.conv1", "weight", "[20, 16, 1, 1]"),
            ("branch.conv2", "weight", "[16, 20, 1, 1]"),
        ];
        let norms = [("bypass.bn", NORM, "[16]"), ("branch.bn1", NORM, "[20]"), ("branch.bn2", NORM, "[16]")];
        let attention = [
            ("attention.fc1", "weight", "[4, 16]"),
            ("attention.fc1", "bias", "[4]"),
            ("attention.fc2", "weight", "[20, 4]"),
            ("attention.fc2", "bias", "[20]"),
        ];
        let biases =
            [("bypass.conv", "bias", "[16]"), ("branch.conv1", "bias", "[20]"), ("branch.conv2", "bias", "[16]")];
        let outer = [("bn", NORM, "[16]")];
        let form = |form| ConvKind::MdConv(MdConv { form, ..MdConv::default() });
        assert_eq!(keys(named("static"), false), with(&[("conv", "weight", "[16, 16, 1, 1]"), ("bn", NORM, "[16]")]));
        assert_eq!(keys(named("maconv"), false), with(&[&kernels[..], &norms].concat()));
        assert_eq!(keys(named("mdconv"), false), with(&[&kernels[..], &norms, &attention].concat()));
        for after in [Form::ExpandedBnAfter, Form::Compact] {
            assert_eq!(keys(form(after), false), with(&[&kernels[..], &attention, &outer].concat()));
        }
        assert_eq!(keys(form(Form::CompactBias), false), with(&[&kernels[..], &biases, &attention, &outer].concat()));
        let no_bypass = ConvKind::MaConv(MaConv { bypass: false, ..MaConv::default() });
        assert_eq!(keys(no_bypass, false), with(&[&kernels[1..], &norms[1..]].concat()));
    }

    #[test]
    fn the_folded_keys_are_pinned() {
        let ends = [
            ("stem.conv", "weight", "[16, 3, 3, 3]"),
            ("stem.conv", "bias", "[16]"),
            ("blocks.0.depthwise.conv", "weight", "[16, 1, 3, 3]"),
            ("blocks.0.depthwise.conv", "bias", "[16]"),
            ("classifier", "weight", "[10, 64]"),
            ("classifier", "bias", "[10]"),
        ];
        let fixed =
            [("blocks.0.pointwise.conv", "weight", "[16, 16, 1, 1]"), ("blocks.0.pointwise.conv", "bias", "[16]")];
        let dynamic = [
            ("blocks.0.pointwise.bypass.conv", "weight", "[16, 16, 1, 1]"),
            ("blocks.0.pointwise.bypass.conv", "bias", "[16]"),
            ("blocks.0.pointwise.branch.conv1", "weight", "[20, 16, 1, 1]"),
            ("blocks.0.pointwise.branch.conv1", "bias", "[20]"),
            ("blocks.0.pointwise.branch.conv2", "weight", "[16, 20, 1, 1]"),
            ("blocks.0.pointwise.attention.fc1", "weight", "[4, 16]"),
            ("blocks.0.pointwise.attention.fc1", "bias", "[4]"),
            ("blocks.0.pointwise.attention.fc2", "weight", "[20, 4]"),
            ("blocks.0.pointwise.attention.fc2", "bias", "[20]"),
        ];
        assert_eq!(keys(named("static"), true), expect(&[&ends[..], &fixed].concat()));
        assert_eq!(keys(named("maconv"), true), expect(&[&ends[..], &fixed].concat()));
        assert_eq!(keys(named("mdconv"), true), expect(&[&ends[..], &dynamic].concat()));
    }

    #[test]
    fn a_site_without_a_fold_is_named() {
        let refusal = |model: &Model<f32>| model.network.fold().err().expect("no fold exists").to_string();
        let relu = model(ConvKind::MaConv(MaConv { activation: BranchActivation::Relu, ..MaConv::default() }), 1.0);
        assert!(refusal(&relu).starts_with("site `blocks.0.pointwise`: the ReLU"), "{}", refusal(&relu));
        let folded = model(named("maconv"), 1.0).fold().unwrap();
        assert_eq!(refusal(&folded), "site `stem`: it is folded already");
    }

    #[test]
    fn a_model_file_rebuilds_the_model() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        for model in [model(named("mdconv"), 1.0), model(named("mdconv"), 1.0).fold().unwrap()] {
            model.save(&path).unwrap();
            let loaded = Model::<f32>::load(&path).unwrap();
            assert_eq!(loaded.description, model.description);
            assert_eq!(loaded.network.state(), model.network.state());
        }
    }
}

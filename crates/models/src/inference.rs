//! Classifying with a network that is not trained any more.

use gatefold_layers::Cx;
use gatefold_tensor::plan::{Builder, Plan};
use gatefold_tensor::{Real, Result, Tensor};

use crate::Model;

/// A model in use: by a [plan](gatefold_tensor::plan) where every part of the network has steps for one, as folded networks
/// have, else by its forward pass in eval mode. The function is the same.
pub struct Inference<'m, T: Real> {
    model: &'m Model<T>,
    plan: Option<Plan<T>>,
}

impl<'m, T: Real> Inference<'m, T> {
    /// Of a model, for images of the shape in its description. Later changes of the model's values are not seen.
    ///
    /// # Errors
    /// As the layers inside, with their paths, if the network does not fit its description.
    pub fn new(model: &'m Model<T>) -> Result<Self> {
        let (mut builder, x) = Builder::new(model.description.input);
        let output = model.network.plan(&mut builder, x)?;
        Ok(Inference { model, plan: output.map(|output| builder.finish(output)) })
    }

    /// Whether there is a plan.
    pub fn is_planned(&self) -> bool {
        self.plan.is_some()
    }

    /// The logits, `[N,C,H,W]` → `[N,classes]`.
    ///
    /// # Errors
    /// [`gatefold_tensor::Error::Shape`] if the images do not fit.
    pub fn logits(&self, x: &Tensor<T>) -> Result<Tensor<T>> {
        if let Some(plan) = &self.plan {
            return plan.run(x);
        }
        let cx = Cx::eval();
        Ok(self.model.network.forward(&cx, &cx.input(x.clone(), false))?.value().clone())
    }
}

#[cfg(test)]
mod tests {
    use gatefold_layers::{BranchActivation, ConvKind, Entry, EntryMut, Evaluation, MaConv, MdConv};
    use gatefold_tensor::random::randn;

    use super::*;
    use crate::{Backbone, Description, Normalisation};

    /// A SmallNet whose statistics look trained.
    fn model<T: Real>(conv: ConvKind, [h, w]: [usize; 2], width: f64) -> Model<T> {
        let description = Description {
            backbone: Backbone::SmallNet,
            width,
            conv,
            folded: false,
            input: [3, h, w],
            classes: (0..7).map(|i| i.to_string()).collect(),
            dataset: "cifar10".to_owned(),
            normalisation: Normalisation { maximum: 255, mean: vec![0.0; 3], std: vec![1.0; 3] },
        };
        let mut model = Model::new(description, 3).unwrap();
        let mut seed = 0;
        model.network.walk_mut("", &mut |key, entry| {
            let trained = matches!(entry, EntryMut::Buffer(_)) || key.contains("bn") || key.contains("fc");
            let mut entry = entry;
            let value = entry.value();
            seed += 1;
            let noise = randn::<T>(value.shape(), seed).map(|v| v * T::of(0.2));
            if trained {
                value.zip_apply(&noise, |v, noise| *v += noise).unwrap();
            }
            if key.ends_with("running_var") {
                *value = value.map(|v| v.abs() + T::of(0.5));
            }
        });
        model
    }

    fn kinds() -> Vec<ConvKind> {
        let named = |name| ConvKind::named(name).unwrap();
        let softmax = MdConv { gate: gatefold_layers::Gate::Softmax, m: 5, ..MdConv::default() };
        let bare = MdConv { bypass: false, ..MdConv::default() };
        let thin = MaConv { bypass: false, m: 3, ..MaConv::default() };
        vec![
            named("static"),
            named("maconv"),
            named("mdconv"),
            named("expandnet"),
            ConvKind::MdConv(softmax),
            ConvKind::MdConv(bare),
            ConvKind::MaConv(thin),
        ]
    }

    fn assert_same_logits<T: Real>(model: &Model<T>, tolerance: f64) {
        let inference = Inference::new(model).unwrap();
        assert!(inference.is_planned());
        for n in [1, 3, 128] {
            let [c, h, w] = model.description.input;
            let x = randn::<T>([n, c, h, w], n as u64);
            let cx = Cx::eval();
            let expected = model.network.forward(&cx, &cx.input(x.clone(), false)).unwrap().value().clone();
            let apart = inference.logits(&x).unwrap().max_abs_diff(&expected).unwrap().f64();
            let scale = expected.max_abs().f64();
            let kind = &model.description.conv;
            assert!(scale > 0.0 && apart <= tolerance * scale, "{kind:?}, {n} images: {apart:e} of {scale:e}");
        }
    }

    #[test]
    fn a_plan_is_the_forward_pass_of_every_folded_kind() {
        for conv in kinds() {
            for (map, width) in [([32, 32], 1.0), ([19, 23], 0.7)] {
                assert_same_logits(&model::<f64>(conv.clone(), map, width).fold().unwrap(), 1e-12);
                assert_same_logits(&model::<f32>(conv.clone(), map, width).fold().unwrap(), 1e-6);
            }
        }
    }

    #[test]
    fn both_evaluations_of_a_dynamic_site_have_a_plan() {
        use gatefold_layers::{Activation, Folded, Init, Site, SiteSpec};
        let x = randn::<f64>([3, 6, 9, 7], 1);
        for spec in [SiteSpec::pointwise(6, 8), SiteSpec { groups: 2, ..SiteSpec::same(6, 8, 3, 2) }] {
            let options = ConvKind::MdConv(MdConv { m: 4, ..MdConv::default() });
            let site = options.build::<f64>(spec, &Init::new(1)).unwrap();
            let Folded::Dynamic(mut site) = site.fold().unwrap() else { panic!("a dynamic site is dynamic folded") };
            for evaluation in [Evaluation::Auto, Evaluation::Compact, Evaluation::Expanded] {
                site.evaluation = evaluation;
                let cx = Cx::eval();
                let expected = site.forward(&cx, &cx.input(x.clone(), false), Activation::Relu).unwrap();
                let (mut builder, input) = Builder::new([6, 9, 7]);
                let y = site.plan(&mut builder, input, Activation::Relu).unwrap().unwrap();
                let got = builder.finish(y).run(&x).unwrap();
                let expected = expected.value().clone();
                let got = Tensor::from_memory(expected.shape(), got.as_slice().to_vec()).unwrap();
                let apart = got.max_abs_diff(&expected).unwrap();
                assert!(apart <= 1e-12 * expected.max_abs(), "{spec}, {evaluation:?}: {apart:e}");
            }
        }
    }

    #[test]
    fn a_network_without_a_plan_says_so_and_runs_forward() {
        let relu = MdConv { activation: BranchActivation::Relu, ..MdConv::default() };
        for conv in [ConvKind::MdConv(relu), ConvKind::named("static").unwrap()] {
            let model = model::<f32>(conv, [16, 16], 1.0);
            let inference = Inference::new(&model).unwrap();
            assert!(!inference.is_planned());
            let x = randn([2, 3, 16, 16], 1);
            let cx = Cx::eval();
            let expected = model.network.forward(&cx, &cx.input(x.clone(), false)).unwrap();
            assert_eq!(inference.logits(&x).unwrap().as_slice(), expected.value().as_slice());
        }
    }

    #[test]
    fn planning_leaves_the_model_alone_and_keeps_the_values() {
        let mut model = model::<f32>(ConvKind::named("mdconv").unwrap(), [16, 16], 1.0).fold().unwrap();
        let before = model.stored();
        let x = randn([5, 3, 16, 16], 1);
        let logits = Inference::new(&model).unwrap().logits(&x).unwrap();
        assert!(model.stored() == before);
        let mut entries = 0;
        model.network.walk("", &mut |_, entry| entries += usize::from(matches!(entry, Entry::Param(_))));
        assert_eq!(entries, before.len());
        model.network.walk_mut("", &mut |_, mut entry| *entry.value() = entry.value().map(|v| v + 1.0));
        assert!(Inference::new(&model).unwrap().logits(&x).unwrap().max_abs_diff(&logits).unwrap() > 0.0);
    }
}

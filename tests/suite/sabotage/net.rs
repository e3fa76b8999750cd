//! A small network with 3x3 sites in a row, trained a few steps on the digits so that its statistics are real.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use gatefold_autograd::Var;
use gatefold_data::{Kind, Loader, Options, load};
use gatefold_layers::{
    Activation, ConvKind, Cx, EntryMut, Folded, Init, Linear, Module, Site, SiteSpec, TrainedSite, Walk, walk_fields,
};
use gatefold_models::{BackboneSite, LayerCost, Network, NotFoldable};
use gatefold_tensor::{Real, Result, Tensor};
use gatefold_train::Sgd;
use gatefold_train::evaluate::Images;
use gatefold_train::verify::{Limits, Pair, Report};

/// `sites.0`, `sites.1`, … each with a ReLU behind it, a global average pool and a classifier.
pub struct Net<T: Real, S> {
    pub sites: Vec<S>,
    pub classifier: Linear<T>,
}

walk_fields!(impl<T, S: Walk<T>> Net<T, S> { sites, classifier });

pub type Trained<T> = Net<T, Box<dyn TrainedSite<T>>>;
pub type FoldedNet<T> = Net<T, Folded<T>>;

/// A static stem; a site of four groups; one without groups, of stride 2; a pointwise one.
pub const GROUPED: usize = 1;
pub const STRIDED: usize = 2;
pub const GROUPS: usize = 4;

impl<T: Real> Trained<T> {
    pub fn new(kind: &ConvKind) -> Self {
        let places = [
            SiteSpec::same(1, 8, 3, 1).fixed(),
            SiteSpec { groups: GROUPS, ..SiteSpec::same(8, 16, 3, 1) },
            SiteSpec::same(16, 16, 3, 2),
            SiteSpec::pointwise(16, 24),
        ];
        let init = Init::new(3);
        let sites = places.into_iter().map(|place| kind.build(place, &init).unwrap()).collect();
        Net { sites, classifier: Linear::new(24, 10, &init) }
    }
}

impl<T: Real, S: BackboneSite<T>> Net<T, S> {
    pub fn folded(&self) -> FoldedNet<T> {
        let sites = self.sites.iter().map(|site| site.folded().unwrap()).collect();
        Net { sites, classifier: self.classifier.clone() }
    }
}

impl<T: Real, S: BackboneSite<T>> Network<T> for Net<T, S> {
    fn forward(&self, cx: &Cx<T>, x: &Var<T>) -> Result<Var<T>> {
        let mut x = x.clone();
        for (path, site) in Network::sites(self) {
            x = cx.scope(&path, &x, |x| site.forward(cx, x, Activation::Relu))?;
        }
        cx.scope("classifier", &x.global_avg_pool()?, |x| self.classifier.forward(cx, x))
    }

    fn sites(&self) -> Vec<(String, &dyn Site<T>)> {
        self.sites.iter().enumerate().map(|(i, site)| (format!("sites.{i}"), site as &dyn Site<T>)).collect()
    }

    fn layers(&self, _: [usize; 2]) -> Result<Vec<LayerCost>> {
        Ok(Vec::new())
    }

    fn fold(&self) -> Result<Box<dyn Network<T>>, NotFoldable> {
        Ok(Box::new(self.folded()))
    }
}

/// The trained network A in f32 and widened, and the images to compare over.
pub struct Subject {
    pub a: Trained<f32>,
    pub wide_a: Trained<f64>,
    images: Images,
}

/// Values in another element type.
pub fn cast<T: Real, U: Real>(state: BTreeMap<String, Tensor<T>>) -> BTreeMap<String, Tensor<U>> {
    state.into_iter().map(|(key, value)| (key, value.cast())).collect()
}

impl Subject {
    /// Twenty steps on the digits; every third γ starts negative.
    pub fn trained(kind: &ConvKind) -> Self {
        let digits = load(Kind::Digits, Path::new("unused by an embedded set"), None).unwrap();
        let mut a = Trained::<f32>::new(kind);
        a.walk_mut("", &mut |key, entry| {
            if let EntryMut::Param(param) = entry
                && key.contains("bn")
                && key.ends_with("weight")
            {
                param.value.as_mut_slice().iter_mut().step_by(3).for_each(|gamma| *gamma = -*gamma);
            }
        });
        let mut sgd = Sgd::new(0.9, 5e-4);
        let options = Options { batch_size: 64, seed: 0, shuffle: true, augment: None, mixup: None };
        let train = Arc::new(digits.split.train);
        for batch in Loader::<f32>::new(&train, &digits.normalisation, &options, 0, 0).unwrap().take(20) {
            let batch = batch.unwrap();
            let cx = Cx::train();
            let logits = a.forward(&cx, &cx.input(batch.images, false)).unwrap();
            let loss = logits.cross_entropy(&batch.labels, 0.0).unwrap();
            assert!(loss.value().item().unwrap().is_finite());
            let gradients = cx.backward(&loss).unwrap();
            let statistics = cx.into_statistics();
            sgd.step(&mut a, &gradients, 0.05).unwrap();
            statistics.apply(&mut a).unwrap();
        }
        let mut wide_a = Trained::<f64>::new(kind);
        wide_a.load(&cast(a.state())).unwrap();
        let mut test = digits.split.test;
        test.truncate(150);
        Subject { a, wide_a, images: Images::new(&Arc::new(test), digits.normalisation) }
    }

    /// A with other values.
    pub fn changed(&self, kind: &ConvKind, change: impl Fn(&mut BTreeMap<String, Tensor<f64>>)) -> Trained<f64> {
        let mut state = self.wide_a.state();
        change(&mut state);
        let mut changed = Trained::new(kind);
        changed.load(&state).unwrap();
        changed
    }

    /// What a file of a fold holds: rounded to f32, and that widened again.
    pub fn stored(&self, fold: &FoldedNet<f64>) -> (FoldedNet<f32>, FoldedNet<f64>) {
        let (mut stored, mut wide) = (self.a.folded(), self.wide_a.folded());
        stored.load(&cast(fold.state())).unwrap();
        wide.load(&cast(stored.state())).unwrap();
        (stored, wide)
    }

    /// A against B, B in f32 and widened.
    pub fn against<S: BackboneSite<f32>, W: BackboneSite<f64>>(
        &self,
        (b, wide_b): &(Net<f32, S>, Net<f64, W>),
    ) -> Report {
        let fold = self.wide_a.folded();
        let pair = Pair { a: &self.a, b, wide_a: &self.wide_a, wide_b, fold: Some(&fold) };
        Report::of(&pair, &self.images, Limits::default()).unwrap()
    }
}

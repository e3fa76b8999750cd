//! Networks for tests: sites and logits are whatever functions the test wants.

use gatefold_autograd::Var;
use gatefold_layers::{Activation, Cost, Cx, Entry, EntryMut, FoldError, Param, Site, SiteSpec, Walk, join};
use gatefold_models::{LayerCost, Network, NotFoldable};
use gatefold_tensor::{Result, Tensor};

type Function = Box<dyn Fn(&Tensor<f64>) -> Tensor<f64>>;

/// A site that computes any function and holds any tensors.
pub(super) struct AnySite {
    pub spec: SiteSpec,
    pub tensors: Vec<(&'static str, Param<f64>)>,
    pub function: Function,
}

impl AnySite {
    /// A site that holds nothing.
    pub fn new(spec: SiteSpec, function: impl Fn(&Tensor<f64>) -> Tensor<f64> + 'static) -> Self {
        AnySite { spec, tensors: Vec::new(), function: Box::new(function) }
    }

    /// The same, holding one more tensor.
    pub fn holding(mut self, key: &'static str, tensor: Tensor<f64>) -> Self {
        self.tensors.push((key, Param::new(tensor)));
        self
    }
}

impl Walk<f64> for AnySite {
    fn walk<'a>(&'a self, prefix: &str, visit: &mut dyn FnMut(&str, Entry<'a, f64>)) {
        self.tensors.iter().for_each(|(key, param)| visit(&join(prefix, key), Entry::Param(param)));
    }

    fn walk_mut<'a>(&'a mut self, prefix: &str, visit: &mut dyn FnMut(&str, EntryMut<'a, f64>)) {
        self.tensors.iter_mut().for_each(|(key, param)| visit(&join(prefix, key), EntryMut::Param(param)));
    }
}

impl Site<f64> for AnySite {
    fn spec(&self) -> &SiteSpec {
        &self.spec
    }

    fn forward(&self, _: &Cx<f64>, x: &Var<f64>, activation: Activation) -> Result<Var<f64>> {
        Ok(activation.apply(Var::constant((self.function)(x.value()))))
    }

    fn cost(&self, _: [usize; 2]) -> Result<Cost> {
        Ok(Cost::default())
    }
}

/// Sites `0`, `1`, … in a row, and the logits of what comes out; they may hold one tensor, `head`.
pub(super) struct AnyNetwork {
    pub sites: Vec<AnySite>,
    pub head: Option<Param<f64>>,
    pub logits: Function,
}

impl AnyNetwork {
    pub fn new(sites: Vec<AnySite>, logits: impl Fn(&Tensor<f64>) -> Tensor<f64> + 'static) -> Self {
        AnyNetwork { sites, head: None, logits: Box::new(logits) }
    }
}

impl Walk<f64> for AnyNetwork {
    fn walk<'a>(&'a self, prefix: &str, visit: &mut dyn FnMut(&str, Entry<'a, f64>)) {
        self.sites.walk(prefix, visit);
        self.head.walk(&join(prefix, "head"), visit);
    }

    fn walk_mut<'a>(&'a mut self, prefix: &str, visit: &mut dyn FnMut(&str, EntryMut<'a, f64>)) {
        self.sites.walk_mut(prefix, visit);
        self.head.walk_mut(&join(prefix, "head"), visit);
    }
}

impl Network<f64> for AnyNetwork {
    fn forward(&self, cx: &Cx<f64>, x: &Var<f64>) -> Result<Var<f64>> {
        let mut x = x.clone();
        for (i, site) in self.sites.iter().enumerate() {
            x = cx.scope(&i.to_string(), &x, |x| site.forward(cx, x, Activation::Identity))?;
        }
        Ok(Var::constant((self.logits)(x.value())))
    }

    fn sites(&self) -> Vec<(String, &dyn Site<f64>)> {
        self.sites.iter().enumerate().map(|(i, site)| (i.to_string(), site as &dyn Site<f64>)).collect()
    }

    fn layers(&self, _: [usize; 2]) -> Result<Vec<LayerCost>> {
        Ok(Vec::new())
    }

    fn fold(&self) -> Result<Box<dyn Network<f64>>, NotFoldable> {
        let source = FoldError::NotFoldable("nobody folds it".to_owned());
        Err(NotFoldable { path: String::new(), source })
    }
}

/// Images of one channel: 2 x 3 bytes each, over 255.
pub(super) fn images(pixels: Vec<u8>) -> crate::evaluate::Images {
    let normalisation = gatefold_data::Normalisation { mean: vec![0.0], std: vec![1.0] };
    let count = pixels.len() / 6;
    let classes = vec!["a".to_owned(), "b".to_owned()];
    let data = gatefold_data::Dataset::new("test", [1, 2, 3], 255, classes, pixels, vec![0; count]).unwrap();
    crate::evaluate::Images::new(&std::sync::Arc::new(data), normalisation)
}

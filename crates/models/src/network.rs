//! What every backbone is: a forward pass over named sites, which can be folded together.
//!
//! A backbone is a struct over the type of its sites `S:` [`BackboneSite`], and implements [`Network`] once for both:
//! trained, `S = Box<dyn TrainedSite<T>>`, and folded, `S = Folded<T>`.

use gatefold_autograd::Var;
use gatefold_layers::{Activation, Cost, Cx, FoldError, Folded, Linear, Module, Shared, Site, TrainedSite, Walk, join};
use gatefold_tensor::kernels::pool::Window;
use gatefold_tensor::plan::{Builder, Map};
use gatefold_tensor::{Real, Result};

/// A network, trained or folded.
pub trait Network<T: Real>: Walk<T> {
    /// The logits, `[N,C,H,W]` → `[N,classes]`. Every site and layer runs in a [`Cx::scope`] under its path.
    ///
    /// # Errors
    /// As the layers inside, with their paths.
    fn forward(&self, cx: &Cx<T>, x: &Var<T>) -> Result<Var<T>>;

    /// Every convolution site with its path, in the order of the forward pass.
    fn sites(&self) -> Vec<(String, &dyn Site<T>)>;

    /// The cost of every layer for one image of `[H, W]`, in the order of the forward pass.
    ///
    /// # Errors
    /// If a kernel is larger than its padded map.
    fn layers(&self, input: [usize; 2]) -> Result<Vec<LayerCost>>;

    /// The same network with every site folded, by the running statistics; this one is left alone.
    ///
    /// # Errors
    /// [`NotFoldable`] names the first site without a fold.
    fn fold(&self) -> Result<Box<dyn Network<T>>, NotFoldable>;

    /// Adds the steps of [`forward`](Self::forward) in eval mode to a plan; `None` if a part of the network has none.
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    fn plan(&self, plan: &mut Builder<T>, x: Map) -> Result<Option<Map>> {
        let _ = (plan, x);
        Ok(None)
    }
}

/// What stands at the sites of a backbone: trained sites, or folded ones, which have no further fold.
pub trait BackboneSite<T: Real>: Site<T> {
    /// The folded site, by the running statistics; this one is left alone.
    ///
    /// # Errors
    /// [`FoldError::NotFoldable`] says why there is no fold.
    fn folded(&self) -> Result<Folded<T>, FoldError>;

    /// The same, for the site at `path`.
    ///
    /// # Errors
    /// [`NotFoldable`] names the path.
    fn folded_at(&self, path: &str) -> Result<Folded<T>, NotFoldable> {
        self.folded().map_err(|source| NotFoldable { path: path.to_owned(), source })
    }
}

impl<T: Real> BackboneSite<T> for Box<dyn TrainedSite<T>> {
    fn folded(&self) -> Result<Folded<T>, FoldError> {
        self.fold()
    }
}

impl<T: Real> BackboneSite<T> for Folded<T> {
    fn folded(&self) -> Result<Folded<T>, FoldError> {
        Err(FoldError::NotFoldable("it is folded already".to_owned()))
    }
}

/// The form of a backbone, by the size of its images.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resolution {
    /// Small images, on which the first layers keep the size of the map.
    Cifar,
    /// Photos, which the first layers bring down quickly.
    Imagenet,
}

impl Resolution {
    /// Up to so many pixels along a side an image is small.
    pub const CIFAR_SIDE: usize = 64;

    /// The form for images of `[H, W]`.
    pub fn of([h, w]: [usize; 2]) -> Self {
        if h.max(w) <= Self::CIFAR_SIDE { Resolution::Cifar } else { Resolution::Imagenet }
    }
}

/// The 3x3 max-pool of stride 2 behind the stem of a backbone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MaxPool;

impl MaxPool {
    fn window() -> Window {
        Window::square(3).stride(2).padding(1)
    }

    /// `[N,C,H,W]` → `[N,C,⌈H/2⌉,⌈W/2⌉]`.
    pub(crate) fn forward<T: Real>(self, x: &Var<T>) -> Result<Var<T>> {
        x.max_pool2d(&Self::window())
    }

    pub(crate) fn plan<T: Real>(self, plan: &mut Builder<T>, x: Map) -> Result<Map> {
        plan.max_pool(x, &Self::window())
    }

    pub(crate) fn output(self, map: [usize; 2]) -> Result<[usize; 2]> {
        Self::window().output(map)
    }
}

/// Runs the site `name` of a network or a block, with the activation that follows it.
pub(crate) fn run<T: Real>(
    cx: &Cx<T>,
    name: &str,
    site: &impl Site<T>,
    x: &Var<T>,
    activation: Activation,
) -> Result<Var<T>> {
    cx.scope(name, x, |x| site.forward(cx, x, activation))
}

/// The steps of [`run`] in eval mode; `None` from a site that has none.
pub(crate) fn plan_site<T: Real>(
    plan: &mut Builder<T>,
    name: &str,
    site: &impl Site<T>,
    x: Map,
    activation: Activation,
) -> Result<Option<Map>> {
    site.plan(plan, x, activation).map_err(|e| e.in_layer(name))
}

/// A few sites with one input and one output, of which a backbone has a row.
pub(crate) trait Block<T: Real> {
    fn forward(&self, cx: &Cx<T>, x: &Var<T>) -> Result<Var<T>>;

    /// The steps of [`forward`](Self::forward) in eval mode; `None` if a site has none.
    fn plan(&self, plan: &mut Builder<T>, x: Map) -> Result<Option<Map>>;
}

/// The path of the i-th block.
pub(crate) fn block_path(i: usize) -> String {
    format!("blocks.{i}")
}

/// Runs the blocks of a backbone one after the other.
pub(crate) fn run_blocks<T: Real>(cx: &Cx<T>, blocks: &[impl Block<T>], mut x: Var<T>) -> Result<Var<T>> {
    for (i, block) in blocks.iter().enumerate() {
        x = cx.scope(&block_path(i), &x, |x| block.forward(cx, x))?;
    }
    Ok(x)
}

/// The steps of [`run_blocks`] in eval mode; `None` if a site has none.
pub(crate) fn plan_blocks<T: Real>(plan: &mut Builder<T>, blocks: &[impl Block<T>], mut x: Map) -> Result<Option<Map>> {
    for (i, block) in blocks.iter().enumerate() {
        let Some(y) = block.plan(plan, x).map_err(|e| e.in_layer(&block_path(i)))? else { return Ok(None) };
        x = y;
    }
    Ok(Some(x))
}

/// The blocks of a backbone folded one by one, by a function of a block and its path.
pub(crate) fn fold_blocks<B, F>(
    blocks: &[B],
    fold: impl Fn(&B, &str) -> Result<F, NotFoldable>,
) -> Result<Vec<F>, NotFoldable> {
    blocks.iter().enumerate().map(|(i, block)| fold(block, &block_path(i))).collect()
}

/// The sites of the blocks of a backbone, by their names in a block, with their paths.
pub(crate) fn sites_of_blocks<'a, T: Real, B, S: Site<T> + 'a, I: IntoIterator<Item = (&'static str, &'a S)>>(
    blocks: &'a [B],
    sites: impl Fn(&'a B) -> I,
) -> impl Iterator<Item = (String, &'a dyn Site<T>)> {
    blocks.iter().enumerate().flat_map(move |(i, block)| {
        let path = block_path(i);
        sites(block).into_iter().map(move |(name, site)| (join(&path, name), site as &dyn Site<T>))
    })
}

/// Runs the sites of a block beside what they share, which is made of `x`.
// ANCHOR: sharing
pub(crate) fn sharing<T: Real>(
    cx: &Cx<T>,
    shared: Option<&Shared<T>>,
    x: &Var<T>,
    run: impl FnOnce() -> Result<Var<T>>,
) -> Result<Var<T>> {
    let Some(shared) = shared else { return run() };
    let values = cx.scope("shared", x, |x| shared.layer.forward(cx, x))?;
    cx.sharing(values, run)
}
// ANCHOR_END: sharing

/// The steps of [`sharing`] in eval mode.
pub(crate) fn plan_sharing<T: Real>(
    plan: &mut Builder<T>,
    shared: Option<&Shared<T>>,
    x: Map,
    run: impl FnOnce(&mut Builder<T>) -> Result<Option<Map>>,
) -> Result<Option<Map>> {
    let Some(shared) = shared else { return run(plan) };
    let values = shared.layer.plan(plan, x).map_err(|e| e.in_layer("shared"))?;
    let outer = plan.share(Some(values));
    let y = run(plan);
    plan.share(outer);
    y
}

/// The steps of a global average pool and the classifier behind it.
pub(crate) fn plan_classifier<T: Real>(plan: &mut Builder<T>, classifier: &Linear<T>, x: Map) -> Result<Option<Map>> {
    let means = plan.global_avg_pool(x);
    classifier.plan(plan, means, Activation::Identity).map_err(|e| e.in_layer("classifier")).map(Some)
}

/// A layer's cost, and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerCost {
    /// The layer's path.
    pub path: String,
    /// What it is, in words: `1x1 16 -> 32`.
    pub what: String,
    /// The shape of its output for one image.
    pub output: Vec<usize>,
    /// Its cost.
    pub cost: Cost,
}

impl LayerCost {
    /// Of a site with an input map of `[H, W]`, which becomes its output map.
    pub(crate) fn of_site<T: Real>(path: String, site: &impl Site<T>, map: &mut [usize; 2]) -> Result<Self> {
        let (spec, cost) = (site.spec(), site.cost(*map)?);
        *map = spec.output(*map)?;
        Ok(LayerCost { path, what: spec.to_string(), output: vec![spec.cout, map[0], map[1]], cost })
    }

    /// Of sites in a row below `path`, with an input map of `[H, W]`, which becomes the last one's output map.
    pub(crate) fn of_sites<'a, T: Real, S: Site<T> + 'a>(
        path: &str,
        sites: impl IntoIterator<Item = (&'static str, &'a S)>,
        map: &mut [usize; 2],
    ) -> Result<Vec<Self>> {
        sites.into_iter().map(|(name, site)| Self::of_site(join(path, name), site, map)).collect()
    }

    /// Of what the sites of the block at `path` share, if they do.
    pub(crate) fn of_shared<T: Real>(path: &str, shared: Option<&Shared<T>>) -> Result<Option<Self>> {
        let Some(shared) = shared else { return Ok(None) };
        let [values, channels] = shared.layer.linear.weight.value.dims("shared", "weight")?;
        Ok(Some(LayerCost {
            path: join(path, "shared"),
            what: format!("pool, linear {channels} -> {values}"),
            output: vec![values],
            cost: shared.cost(),
        }))
    }

    /// Of a global average pool and the classifier behind it.
    pub(crate) fn of_classifier<T: Real>(classifier: &Linear<T>) -> Result<Self> {
        let [classes, channels] = classifier.weight.value.dims("classifier", "weight")?;
        Ok(LayerCost {
            path: "classifier".to_owned(),
            what: format!("pool, linear {channels} -> {classes}"),
            output: vec![classes],
            cost: Cost { parameters: classifier.parameters(), macs: classes * channels, ..Cost::default() },
        })
    }
}

/// A site that has no fold, and why.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("site `{path}`: {source}")]
pub struct NotFoldable {
    /// The site's path.
    pub path: String,
    /// Why.
    pub source: FoldError,
}

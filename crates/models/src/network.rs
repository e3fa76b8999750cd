//! What every backbone is: a forward pass over named sites, which can be folded together.

use gatefold_autograd::Var;
use gatefold_layers::{Cost, Cx, FoldError, Site, Walk};
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

/// A site that has no fold, and why.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("site `{path}`: {source}")]
pub struct NotFoldable {
    /// The site's path.
    pub path: String,
    /// Why.
    pub source: FoldError,
}

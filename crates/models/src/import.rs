//! Weights of networks that others trained: state dicts whose names are not ours, renamed to the keys of a backbone.
//!
//! A [`Layout`] knows the names of one architecture elsewhere. It is recognised by its names, and says of what width the
//! network is; the shapes are held against the backbone when the weights are [loaded](gatefold_layers::Walk::load).

pub mod acnet;
mod mobilenet_v2;
pub mod repvgg;
mod resnet18;
mod shufflenet_v2;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::Path;

use gatefold_layers::{ConvKind, Walk};
use gatefold_tensor::Real;

use crate::file::{Contents, FileError, Stored};
use crate::{Backbone, Description, Model};

/// The names of one architecture in another library.
pub struct Layout {
    /// The name of the architecture there.
    pub name: &'static str,
    /// Ours.
    pub backbone: Backbone,
    /// The kind of convolution at its replaceable sites.
    pub conv: &'static str,
    /// A name that no other layout has.
    mark: &'static str,
    /// Our key for a name; `None` if the architecture has no such name.
    rename: fn(&str) -> Option<String>,
    /// The width by the shapes under our keys; `None` if there is no such width.
    width: fn(&Renamed) -> Option<f64>,
}

/// Every layout that is recognised.
pub const LAYOUTS: &[Layout] = &[mobilenet_v2::TORCHVISION, shufflenet_v2::TORCHVISION, resnet18::TORCHVISION];

/// Tensors under our keys.
type Renamed = BTreeMap<String, Stored>;

/// What `torch.nn.DataParallel` puts before every name.
const PARALLEL: &str = "module.";

/// A state dict that was recognised.
pub struct Recognised {
    /// Whose names it has.
    pub layout: &'static Layout,
    /// The width multiplier; `None` if the shapes are those of no width.
    pub width: Option<f64>,
    /// Channels of an image.
    pub channels: usize,
    /// The number of classes.
    pub classes: usize,
    tensors: Renamed,
}

impl Recognised {
    /// The state dict in what was read from `path`.
    ///
    /// # Errors
    /// [`FileError::Format`] if it has the names of no layout, or names beside those of its layout.
    pub fn of(contents: Contents, path: &Path) -> Result<Self, FileError> {
        let format = |message: String| FileError::Format { path: path.to_owned(), message };
        if contents.metadata.is_some() {
            return Err(format("it is a model of gatefold's own, which every command takes as it is".to_owned()));
        }
        let parallel = contents.tensors.keys().all(|name| name.starts_with(PARALLEL));
        let named = |name: &str| name[if parallel { PARALLEL.len() } else { 0 }..].to_owned();
        let tensors: Renamed = contents.tensors.into_iter().map(|(name, value)| (named(&name), value)).collect();
        let known = || LAYOUTS.iter().map(|layout| layout.name).collect::<Vec<_>>().join(", ");
        let Some(layout) = LAYOUTS.iter().find(|layout| tensors.contains_key(layout.mark)) else {
            return Err(format(format!("its names are of no architecture that is known here: {}", known())));
        };
        let (mut renamed, mut unknown) = (Renamed::new(), Vec::new());
        for (name, value) in tensors {
            match (layout.rename)(&name) {
                Some(key) => drop(renamed.insert(key, value)),
                None => unknown.push(format!("`{name}`")),
            }
        }
        if !unknown.is_empty() {
            let (name, unknown) = (layout.name, list(&unknown));
            return Err(format(format!("it looks like {name}, which has no tensor {unknown}")));
        }
        let shape = |key: &str| -> Result<[usize; 2], FileError> {
            let shape = renamed.get(key).map(Stored::shape).filter(|shape| shape.len() >= 2);
            let missing = || format(format!("it looks like {}, but what is `{key}` here is not there", layout.name));
            shape.map(|shape| [shape[0], shape[1]]).ok_or_else(missing)
        };
        let ([classes, _], [_, channels]) = (shape("classifier.weight")?, shape("stem.conv.weight")?);
        Ok(Recognised { layout, width: (layout.width)(&renamed), channels, classes, tensors: renamed })
    }

    /// The model of that description with these weights.
    ///
    /// # Errors
    /// [`FileError::Format`] names every tensor that is missing, or has another shape.
    pub fn into_model<T: Real>(self, description: Description, path: &Path) -> Result<Model<T>, FileError> {
        let format = |message: String| FileError::Format { path: path.to_owned(), message };
        let mut model = Model::new(description, 0).map_err(|e| format(format!("it makes no network: {e}")))?;
        let state = self.tensors.iter().map(|(key, value)| (key.clone(), value.to())).collect();
        model.network.load(&state).map_err(|e| format(format!("its tensors, renamed, do not fit: {e}")))?;
        Ok(model)
    }

    /// The kind of convolution at the replaceable sites.
    pub fn conv(&self) -> ConvKind {
        ConvKind::named(self.layout.conv).expect("a layout names a kind")
    }
}

/// The first few, and how many more.
fn list(names: &[String]) -> String {
    const SHOWN: usize = 4;
    let shown = names[..names.len().min(SHOWN)].join(", ");
    if names.len() > SHOWN { format!("{shown} and {} more", names.len() - SHOWN) } else { shown }
}

/// The number of output channels of the convolution `site`.
fn outputs(tensors: &Renamed, site: &str) -> Option<usize> {
    tensors.get(&format!("{site}.conv.weight")).and_then(|weight| weight.shape().first().copied())
}

/// `name` without its prefix up to the first `.`, which is the number `prefix` counts: `layer3.rest` → (3, `rest`).
fn numbered<'n>(name: &'n str, prefix: &str) -> Option<(usize, &'n str)> {
    let (number, rest) = name.strip_prefix(prefix)?.split_once('.')?;
    let canonical = number.parse().ok().filter(|n: &usize| n.to_string() == number);
    Some((canonical?, rest))
}

/// Exchanges the first prefix of `table` that `name` begins with.
fn exchange(name: &str, table: &[(&str, &str)]) -> Option<String> {
    table.iter().find_map(|(theirs, ours)| name.strip_prefix(theirs).map(|rest| format!("{ours}{rest}")))
}

//! Weights of networks that others trained: state dicts whose names are not ours, renamed to the keys of a backbone.
//!
//! A [`Layout`] knows the names of one architecture elsewhere. It is recognised by its names, and says by the shapes which
//! network it is and of what width; all shapes are held against the backbone when the weights are
//! [loaded](gatefold_layers::Walk::load).

mod acnet;
mod mobilenet_v2;
mod repvgg;
mod resnet18;
mod shufflenet_v2;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::Path;

use gatefold_layers::{ConvKind, Walk};
use gatefold_tensor::Real;

use crate::file::{Contents, FileError, Stored};
use crate::{Backbone, Description, Model, Resolution};

/// The names of one architecture in another library.
pub struct Layout {
    /// The name of the architecture there.
    pub name: &'static str,
    /// The kind of convolution at its replaceable sites.
    pub conv: &'static str,
    /// Whether no other layout has such a name.
    mark: fn(&str) -> bool,
    /// Made of all names.
    rename: fn(&[&str]) -> Rename,
    /// What there is to say of a name that the architecture does not have.
    refusal: fn(&str) -> Option<&'static str>,
    /// The convolution that sees the channels of an image, by its path here.
    stem: &'static str,
    /// Which network it is by the shapes under our keys.
    network: fn(&Renamed) -> Found,
}

/// Every layout that is recognised; those of blocks before those of the networks that the blocks stand in.
pub const LAYOUTS: &[Layout] =
    &[mobilenet_v2::TORCHVISION, shufflenet_v2::TORCHVISION, repvgg::OFFICIAL, acnet::RESNET18, resnet18::TORCHVISION];

impl Layout {
    /// Our key for each of `names`.
    ///
    /// # Errors
    /// In words, the names that the architecture does not have.
    fn keys(&self, names: &[&str]) -> Result<Vec<String>, String> {
        let rename = (self.rename)(names);
        let (mut keys, mut unknown, mut taken) = (Vec::new(), Vec::new(), BTreeMap::new());
        for name in names {
            let Some(key) = rename(name) else {
                unknown.push(*name);
                continue;
            };
            if let Some(other) = taken.insert(key.clone(), *name) {
                return Err(format!("it has `{other}` and `{name}`, which are both `{key}` here"));
            }
            keys.push(key);
        }
        if unknown.is_empty() {
            return Ok(keys);
        }
        let refusal = unknown.iter().find_map(|name| (self.refusal)(name)).map(|why| format!("; {why}"));
        let (name, unknown) = (self.name, list(&unknown));
        Err(format!("it looks like {name}, which has no tensor {unknown}{}", refusal.unwrap_or_default()))
    }
}

/// Of a checkpoint whose blocks are folded already.
const DEPLOYED: &str = "it was converted for deployment, and only training checkpoints are read";

/// Our key for a name; `None` if the architecture has no such name.
type Rename = Box<dyn Fn(&str) -> Option<String>>;

/// A backbone and its width, if there is one; or, in words, why there is no such network.
type Found = Result<(Backbone, Option<f64>), String>;

/// Tensors under our keys.
type Renamed = BTreeMap<String, Stored>;

/// What `torch.nn.DataParallel` puts before every name.
const PARALLEL: &str = "module.";

/// A state dict that was recognised.
pub struct Recognised {
    /// Whose names it has.
    pub layout: &'static Layout,
    /// Which network it is here.
    pub backbone: Backbone,
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
        let names: Vec<_> = tensors.keys().map(String::as_str).collect();
        let known = || LAYOUTS.iter().map(|layout| layout.name).collect::<Vec<_>>().join(", ");
        let Some(layout) = LAYOUTS.iter().find(|layout| names.iter().any(|name| (layout.mark)(name))) else {
            return Err(format(format!("its names are of no architecture that is known here: {}", known())));
        };
        let keys = layout.keys(&names).map_err(format)?;
        let tensors: Renamed = keys.into_iter().zip(tensors.into_values()).collect();
        let looks = |what: String| format(format!("it looks like {}, but {what}", layout.name));
        let extent = |key: &str, axis: usize| shape(&tensors, key).map(|shape| shape[axis]).map_err(looks);
        let (classes, channels) = (extent("classifier.weight", 0)?, extent(&weight(layout.stem), 1)?);
        let (backbone, width) = (layout.network)(&tensors).map_err(looks)?;
        Ok(Recognised { layout, backbone, width, channels, classes, tensors })
    }

    /// The model of that description with these weights.
    ///
    /// # Errors
    /// [`FileError::Misfit`] names every tensor that is missing, or has another shape.
    pub fn into_model<T: Real>(self, description: Description, path: &Path) -> Result<Model<T>, FileError> {
        let format = |message: String| FileError::Format { path: path.to_owned(), message };
        let [_, h, w] = description.input;
        let images = match Resolution::of([h, w]) {
            Resolution::Cifar => "of up to",
            Resolution::Imagenet => "of more than",
        };
        let mut model = Model::new(description, 0).map_err(|e| format(format!("it makes no network: {e}")))?;
        let state = self.tensors.iter().map(|(key, value)| (key.clone(), value.to())).collect();
        let fit = format!("the network for images {images} {} pixels a side, as {h}x{w}", Resolution::CIFAR_SIDE);
        model.network.load(&state).map_err(|e| FileError::Misfit {
            path: path.to_owned(),
            message: format!("its tensors, renamed, do not fit {fit}: {e}"),
        })?;
        Ok(model)
    }

    /// The kind of convolution at the replaceable sites.
    pub fn conv(&self) -> ConvKind {
        ConvKind::named(self.layout.conv).expect("a layout names a kind")
    }
}

/// The first few, and how many more.
fn list(names: &[&str]) -> String {
    const SHOWN: usize = 4;
    let shown: Vec<_> = names.iter().take(SHOWN).map(|name| format!("`{name}`")).collect();
    let more = names.len() - shown.len();
    let shown = shown.join(", ");
    if more > 0 { format!("{shown} and {more} more") } else { shown }
}

/// The key of the kernels of a convolution.
fn weight(site: &str) -> String {
    format!("{site}.conv.weight")
}

/// The shape under a key, if that of kernels or of a matrix; or that there is none.
fn shape<'t>(tensors: &'t Renamed, key: &str) -> Result<&'t [usize], String> {
    let shape = tensors.get(key).map(|tensor| &tensor.shape()[..]).filter(|shape| shape.len() >= 2);
    shape.ok_or_else(|| format!("what is `{key}` here is not there"))
}

/// The number of output channels of the convolution `site`.
fn outputs(tensors: &Renamed, site: &str) -> Option<usize> {
    shape(tensors, &weight(site)).ok().map(|shape| shape[0])
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

//! A network with its description: what files hold and commands pass around.

use std::collections::BTreeMap;
use std::path::Path;

use gatefold_layers::{Init, Walk};
use gatefold_tensor::{Real, Result, Tensor};
use serde_json::json;

use crate::file::{self, Contents, FileError, Stored};
use crate::{
    Backbone, Description, MobileNetV2, Network, NotFoldable, RepVgg, ResNet18, Resolution, ShuffleNetV2, SmallNet,
};

/// A network, trained or folded, and how to rebuild and feed it.
pub struct Model<T: Real> {
    /// What it is.
    pub description: Description,
    /// The network itself.
    pub network: Box<dyn Network<T>>,
}

impl<T: Real> Model<T> {
    /// A new network with initial values named by `seed`.
    ///
    /// # Errors
    /// [`gatefold_tensor::Error::Invalid`] if the options do not fit the backbone.
    pub fn new(description: Description, seed: u64) -> Result<Self> {
        description.check().map_err(|why| gatefold_tensor::Error::invalid("model", why))?;
        let init = Init::new(seed);
        let Description { backbone, width, conv, folded, input, classes, .. } = &description;
        let (channels, outputs, width) = (input[0], classes.len(), *width);
        let form = Resolution::of([input[1], input[2]]);
        let network: Box<dyn Network<T>> = match backbone {
            Backbone::SmallNet => Box::new(SmallNet::new(conv, channels, outputs, width, &init)?),
            Backbone::MobileNetV2 => Box::new(MobileNetV2::new(conv, form, channels, outputs, width, init)?),
            Backbone::ShuffleNetV2 => Box::new(ShuffleNetV2::new(conv, form, channels, outputs, width, &init)?),
            Backbone::ResNet18 => Box::new(ResNet18::new(conv, form, channels, outputs, width, init)?),
            Backbone::RepVgg(variant) => Box::new(RepVgg::new(*variant, conv, form, channels, outputs, width, &init)?),
        };
        let network = match folded {
            false => network,
            true => network.fold().map_err(|e| gatefold_tensor::Error::invalid("model", e.to_string()))?,
        };
        // A map that vanishes on the way is found here, not in the first batch.
        network.layers([input[1], input[2]])?;
        Ok(Model { description, network })
    }

    /// The folded model; this one is left alone.
    ///
    /// # Errors
    /// [`NotFoldable`] names the first site without a fold.
    pub fn fold(&self) -> Result<Self, NotFoldable> {
        let description = Description { folded: true, ..self.description.clone() };
        Ok(Model { description, network: self.network.fold()? })
    }

    /// The same model with another element type: widened exactly, or rounded.
    ///
    /// # Errors
    /// None in a model that was built by this crate.
    pub fn cast<U: Real>(&self) -> Result<Model<U>> {
        let mut model = Model::new(self.description.clone(), 0)?;
        let state: BTreeMap<_, _> =
            self.network.state().iter().map(|(key, value)| (key.clone(), value.cast())).collect();
        model.network.load(&state).map_err(|e| gatefold_tensor::Error::invalid("cast", e.to_string()))?;
        Ok(model)
    }

    /// Every value by its key, as files hold it.
    pub fn stored(&self) -> BTreeMap<String, Stored> {
        self.network.state().iter().map(|(key, value)| (key.clone(), Stored::from(value))).collect()
    }

    /// Writes description and values.
    ///
    /// # Errors
    /// [`FileError::Io`].
    pub fn save(&self, path: &Path) -> Result<(), FileError> {
        let metadata = json!({ "model": self.description.to_json() }).to_string();
        file::write(path, Some(metadata), &self.stored())
    }

    /// Reads a model file or a checkpoint; momenta in it are passed over.
    ///
    /// # Errors
    /// [`FileError`] if the file is not one of ours, or its tensors do not fit its description.
    pub fn load(path: &Path) -> Result<Self, FileError> {
        Self::from_contents(&file::read(path)?, path)
    }

    /// The model in what was read from `path`.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn from_contents(contents: &Contents, path: &Path) -> Result<Self, FileError> {
        let format = |message: String| FileError::Format { path: path.to_owned(), message };
        let description = describe(contents, path)?;
        let mut model =
            Model::new(description, 0).map_err(|e| format(format!("its description makes no network: {e}")))?;
        let tensors = contents.tensors.iter().filter(|(key, _)| !key.starts_with("optimizer."));
        let state: BTreeMap<String, Tensor<T>> = tensors.map(|(key, value)| (key.clone(), value.to())).collect();
        model.network.load(&state).map_err(|e| format(format!("its tensors do not fit its description: {e}")))?;
        Ok(model)
    }
}

/// The description in the metadata of what was read from `path`.
///
/// # Errors
/// [`FileError::Format`] if there is none, or it is not one.
pub fn describe(contents: &Contents, path: &Path) -> Result<Description, FileError> {
    let format = |message: String| FileError::Format { path: path.to_owned(), message };
    let Some(text) = &contents.metadata else {
        return Err(format("it has no description of a model (metadata key `gatefold`); start from plain weights with `gatefold train --init FILE`".to_owned()));
    };
    let invalid = |e: serde_json::Error| format(format!("its description cannot be read: {e}"));
    let mut json: serde_json::Value = serde_json::from_str(text).map_err(invalid)?;
    let description: Description = serde_json::from_value(json["model"].take()).map_err(invalid)?;
    description.check().map_err(|why| format(format!("its description makes no sense: {why}")))?;
    Ok(description)
}

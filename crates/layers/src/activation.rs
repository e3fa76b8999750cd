//! The rectifier that follows a site. It is handed to the site, which may apply it in the same pass.

use gatefold_autograd::Var;
use gatefold_tensor::Real;
use gatefold_tensor::kernels::pending::Rectifier;

/// What follows a normalised convolution.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Activation {
    /// Nothing.
    Identity,
    /// max(x, 0).
    Relu,
    /// min(max(x, 0), 6).
    Relu6,
}

impl From<Activation> for Rectifier {
    fn from(activation: Activation) -> Self {
        match activation {
            Activation::Identity => Rectifier::Identity,
            Activation::Relu => Rectifier::Relu,
            Activation::Relu6 => Rectifier::Relu6,
        }
    }
}

impl Activation {
    /// The activation of `x`.
    pub fn apply<T: Real>(self, x: Var<T>) -> Var<T> {
        match self {
            Activation::Identity => x,
            Activation::Relu => x.relu(),
            Activation::Relu6 => x.relu6(),
        }
    }
}

//! What a model file says of itself, so that every command can rebuild the network without a flag.

use gatefold_layers::ConvKind;
use serde::{Deserialize, Serialize};

use crate::repvgg::Variant;

/// A backbone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "&'static str")]
pub enum Backbone {
    /// [`SmallNet`](crate::SmallNet).
    SmallNet,
    /// [`MobileNetV2`](crate::MobileNetV2).
    MobileNetV2,
    /// [`ShuffleNetV2`](crate::ShuffleNetV2).
    ShuffleNetV2,
    /// [`ResNet18`](crate::ResNet18).
    ResNet18,
    /// [`RepVgg`](crate::RepVgg).
    RepVgg(Variant),
}

impl Backbone {
    /// The names of all backbones, as the command line takes them.
    pub const NAMES: &[&str] = &[
        "smallnet",
        "mobilenetv2",
        "shufflenetv2",
        "resnet18",
        "repvgg-a0",
        "repvgg-a1",
        "repvgg-a2",
        "repvgg-b0",
        "repvgg-b1",
        "repvgg-b1g2",
        "repvgg-b1g4",
        "repvgg-b2",
        "repvgg-b2g2",
        "repvgg-b2g4",
        "repvgg-b3",
        "repvgg-b3g2",
        "repvgg-b3g4",
    ];

    /// Every backbone, in the order of the names.
    fn all() -> impl Iterator<Item = Backbone> {
        let plain = [Backbone::SmallNet, Backbone::MobileNetV2, Backbone::ShuffleNetV2, Backbone::ResNet18];
        plain.into_iter().chain(Variant::ALL.map(Backbone::RepVgg))
    }

    /// The backbone of that name; `None` if there is none.
    pub fn named(name: &str) -> Option<Self> {
        Self::all().zip(Self::NAMES).find_map(|(backbone, of)| (*of == name).then_some(backbone))
    }

    /// The name.
    pub fn name(self) -> &'static str {
        let found = Self::all().zip(Self::NAMES).find(|(backbone, _)| *backbone == self);
        found.map(|(_, name)| *name).expect("every backbone has a name")
    }

    /// The extent of the kernels at its replaceable sites.
    pub fn replaced_kernel(self) -> usize {
        match self {
            Backbone::SmallNet | Backbone::MobileNetV2 | Backbone::ShuffleNetV2 => 1,
            Backbone::ResNet18 | Backbone::RepVgg(_) => 3,
        }
    }

    /// Whether that kind of convolution fits its replaceable sites.
    ///
    /// # Errors
    /// What does not fit, and which backbone would.
    pub fn check(self, conv: &ConvKind) -> Result<(), String> {
        let (kind, name, k) = (conv.name(), self.name(), self.replaced_kernel());
        if conv.smallest_kernel() > k {
            return Err(format!(
                "{kind} needs kernels larger than {k}x{k}, which {name} replaces; use `--model resnet18` or `--model repvgg-a0`"
            ));
        }
        Ok(())
    }
}

impl From<Backbone> for &'static str {
    fn from(backbone: Backbone) -> Self {
        backbone.name()
    }
}

impl TryFrom<String> for Backbone {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        Self::named(&name)
            .ok_or_else(|| format!("unknown backbone `{name}`, expected one of {}", Self::NAMES.join(", ")))
    }
}

/// How an image becomes an input: `(pixel/maximum − mean)/std`, per channel.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Normalisation {
    /// The largest value of a pixel.
    pub maximum: u8,
    /// Mean of each channel.
    pub mean: Vec<f64>,
    /// Population deviation of each channel; 0 of a constant one, which is only shifted.
    pub std: Vec<f64>,
}

/// Everything needed to rebuild a network and to feed it, but its weights.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Description {
    /// The backbone.
    pub backbone: Backbone,
    /// The width multiplier.
    pub width: f64,
    /// The kind of convolution at the replaceable sites.
    pub conv: ConvKind,
    /// Whether the sites are folded.
    pub folded: bool,
    /// `[C, H, W]` of an image.
    pub input: [usize; 3],
    /// The name of each class.
    pub classes: Vec<String>,
    /// The data set it was trained on.
    pub dataset: String,
    /// How an image becomes an input.
    pub normalisation: Normalisation,
}

impl Description {
    /// A JSON value whose keys are sorted.
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::to_value(self).expect("a description is plain data")
    }

    /// Checks what the types do not: sizes that a file could set to nonsense.
    pub(crate) fn check(&self) -> Result<(), String> {
        let [c, h, w] = self.input;
        let side = |extent: usize| (1..=4096).contains(&extent);
        if !(1..=1024).contains(&c) || !side(h) || !side(w) {
            return Err(format!("an input of {c} x {h} x {w}"));
        }
        if self.classes.is_empty() || self.classes.len() > 100_000 {
            return Err(format!("{} classes", self.classes.len()));
        }
        if !(self.width > 0.0 && self.width <= 64.0) {
            return Err(format!("a width of {}", self.width));
        }
        let Normalisation { maximum, mean, std } = &self.normalisation;
        if mean.len() != c || std.len() != c || *maximum == 0 {
            return Err(format!("{} means and {} deviations for {c} channels", mean.len(), std.len()));
        }
        self.conv.check()?;
        self.backbone.check(&self.conv)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backbone_is_written_as_it_is_named() {
        assert_eq!(Backbone::all().count(), Backbone::NAMES.len());
        for (backbone, name) in Backbone::all().zip(Backbone::NAMES) {
            assert_eq!((Backbone::named(name), serde_json::json!(backbone)), (Some(backbone), serde_json::json!(name)));
            assert_eq!(serde_json::from_value::<Backbone>(serde_json::json!(name)).unwrap(), backbone);
        }
        for variant in Variant::ALL {
            assert_eq!(Backbone::RepVgg(variant).name(), format!("repvgg-{variant:?}").to_lowercase());
        }
        assert_eq!(Backbone::named("resnet"), None);
        let unknown = serde_json::from_value::<Backbone>(serde_json::json!("resnet")).unwrap_err().to_string();
        assert!(unknown.contains("`resnet`") && unknown.contains("repvgg-b1g4"), "{unknown}");
    }
}

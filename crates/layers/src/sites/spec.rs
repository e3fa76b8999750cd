//! What a backbone says of a site, and what a site costs.

use std::fmt;
use std::ops::AddAssign;

use gatefold_tensor::kernels::conv::Geometry;
use gatefold_tensor::{Error, Result};

/// The place of a convolution in a backbone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SiteSpec {
    /// Input channels.
    pub cin: usize,
    /// Output channels.
    pub cout: usize,
    /// k, of a k x k kernel.
    pub kernel: usize,
    /// Stride.
    pub stride: usize,
    /// Zero padding on each side.
    pub padding: usize,
    /// Distance between the taps of the kernel.
    pub dilation: usize,
    /// Groups of channels that do not see each other.
    pub groups: usize,
    /// Input channels of the block that the site belongs to; its own where it stands alone.
    pub block: usize,
    /// Whether the kind of convolution replaces this site, or it stays static.
    pub replaceable: bool,
}

impl SiteSpec {
    /// A replaceable 1 x 1 convolution.
    pub fn pointwise(cin: usize, cout: usize) -> Self {
        SiteSpec { cin, cout, kernel: 1, stride: 1, padding: 0, dilation: 1, groups: 1, block: cin, replaceable: true }
    }

    /// A replaceable k x k convolution, k odd, padded so that stride 1 keeps the size of the map.
    pub fn same(cin: usize, cout: usize, kernel: usize, stride: usize) -> Self {
        SiteSpec { kernel, stride, padding: kernel / 2, ..Self::pointwise(cin, cout) }
    }

    /// A k x k convolution of each channel by itself, which stays static.
    pub fn depthwise(channels: usize, kernel: usize, stride: usize) -> Self {
        SiteSpec { groups: channels, replaceable: false, ..Self::same(channels, channels, kernel, stride) }
    }

    /// Whether it reads each pixel by itself, so that moments of the map tell the batch statistics.
    pub(crate) fn is_pointwise(&self) -> bool {
        (self.kernel, self.stride, self.padding, self.groups) == (1, 1, 0, 1)
    }

    /// The same place, in a block whose input has so many channels.
    #[must_use]
    pub fn in_block(self, channels: usize) -> Self {
        SiteSpec { block: channels, ..self }
    }

    /// The same place, with a convolution that stays static.
    #[must_use]
    pub fn fixed(self) -> Self {
        SiteSpec { replaceable: false, ..self }
    }

    /// The place of the 1 x 1 convolution from `m` channels to this site's output.
    pub(crate) fn second(&self, m: usize) -> Self {
        SiteSpec { groups: self.groups, ..Self::pointwise(m, self.cout) }
    }

    /// `[O, I, k, k]`.
    pub fn weight_shape(&self) -> [usize; 4] {
        [self.cout, self.cin / self.groups, self.kernel, self.kernel]
    }

    /// Stride, padding, dilation and groups.
    pub fn geometry(&self) -> Geometry {
        Geometry::default().stride(self.stride).padding(self.padding).dilation(self.dilation).groups(self.groups)
    }

    /// The output map `[OH, OW]` of an input map `[H, W]`.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the kernel is larger than the padded input.
    pub fn output(&self, [h, w]: [usize; 2]) -> Result<[usize; 2]> {
        self.geometry().output(h, w, self.kernel, self.kernel).ok_or_else(|| {
            let (k, p) = (self.kernel, self.padding);
            Error::invalid("site", format!("a {k} x {k} kernel does not fit a map of {h} x {w} padded by {p}"))
        })
    }

    /// Multiply-accumulates of one plain convolution here: P · Cout · (Cin/g) · k².
    pub(crate) fn macs(&self, input: [usize; 2]) -> Result<usize> {
        let [oh, ow] = self.output(input)?;
        Ok(oh * ow * self.weight_shape().iter().product::<usize>())
    }

    pub(crate) fn check(&self) -> Result<()> {
        let SiteSpec { cin, cout, kernel, stride, dilation, groups, .. } = *self;
        if [cin, cout, kernel, stride, dilation, groups].contains(&0) {
            return Err(Error::invalid("site", format!("no extent may be 0: {self:?}")));
        }
        if cin % groups != 0 || cout % groups != 0 {
            return Err(Error::invalid("site", format!("{groups} groups do not divide {cin} -> {cout} channels")));
        }
        Ok(())
    }
}

impl fmt::Display for SiteSpec {
    /// `3x3 16 -> 32, stride 2`, with whatever else is not the default.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let SiteSpec { cin, cout, kernel, stride, dilation, groups, .. } = *self;
        write!(f, "{kernel}x{kernel} {cin} -> {cout}")?;
        if groups > 1 && groups == cin && groups == cout {
            f.write_str(", depthwise")?;
        } else if groups > 1 {
            write!(f, ", {groups} groups")?;
        }
        if stride > 1 {
            write!(f, ", stride {stride}")?;
        }
        if dilation > 1 {
            write!(f, ", dilation {dilation}")?;
        }
        Ok(())
    }
}

/// What a layer costs for one sample. One multiply-accumulate is one MAC; additions of a global average pool are not
/// counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cost {
    /// Trained values, or stored ones of a folded site.
    pub parameters: usize,
    /// Multiply-accumulates of the forward pass.
    pub macs: usize,
    /// Values that depend on the sample and steer the kernel.
    pub coefficients: usize,
    /// Weights and biases generated for each sample.
    pub generated: usize,
}

impl AddAssign for Cost {
    fn add_assign(&mut self, other: Cost) {
        self.parameters += other.parameters;
        self.macs += other.macs;
        self.coefficients += other.coefficients;
        self.generated += other.generated;
    }
}

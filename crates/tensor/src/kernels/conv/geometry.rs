//! Where the taps of a kernel land: stride, padding, dilation and groups, and the one check of all shapes.

use crate::{Error, Real, Result, Tensor};

/// Stride, zero padding and dilation along `[height, width]`, in pixels, and the number of groups. The extents of the
/// kernel come from its weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Pixels of the input between neighbouring outputs, at least 1.
    pub stride: [usize; 2],
    /// Rows and columns of zeros on each side.
    pub padding: [usize; 2],
    /// Pixels of the input between neighbouring taps of the kernel, at least 1.
    pub dilation: [usize; 2],
    /// Into how many independent groups the channels are split; divides `C` and `O`.
    pub groups: usize,
}

impl Default for Geometry {
    /// Stride 1, no padding, dilation 1, one group.
    fn default() -> Self {
        Geometry { stride: [1; 2], padding: [0; 2], dilation: [1; 2], groups: 1 }
    }
}

impl Geometry {
    /// The same stride along both axes.
    #[must_use]
    pub fn stride(self, stride: usize) -> Self {
        Geometry { stride: [stride; 2], ..self }
    }

    /// The same padding along both axes.
    #[must_use]
    pub fn padding(self, padding: usize) -> Self {
        Geometry { padding: [padding; 2], ..self }
    }

    /// The same dilation along both axes.
    #[must_use]
    pub fn dilation(self, dilation: usize) -> Self {
        Geometry { dilation: [dilation; 2], ..self }
    }

    /// The number of groups.
    #[must_use]
    pub fn groups(self, groups: usize) -> Self {
        Geometry { groups, ..self }
    }

    /// The extents `[OH, OW]` of the output of a `kh × kw` kernel on an `h × w` image, along each axis
    /// `⌊(H + 2p − d(k−1) − 1)/s⌋ + 1`. `None` if the kernel is larger than the padded image, or where an extent
    /// of the kernel or a stride is 0.
    pub fn output(&self, h: usize, w: usize, kh: usize, kw: usize) -> Option<[usize; 2]> {
        let extent = |len: usize, k: usize, axis: usize| -> Option<usize> {
            let reach = self.dilation[axis].checked_mul(k.checked_sub(1)?)?.checked_add(1)?;
            let padded = self.padding[axis].checked_mul(2)?.checked_add(len)?;
            padded.checked_sub(reach)?.checked_div(self.stride[axis])?.checked_add(1)
        };
        Some([extent(h, kh, 0)?, extent(w, kw, 1)?])
    }
}

/// Every extent of one convolution, checked against each other.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    pub n: usize,
    pub c: usize,
    pub h: usize,
    pub w: usize,
    pub o: usize,
    pub kh: usize,
    pub kw: usize,
    pub oh: usize,
    pub ow: usize,
    pub geo: Geometry,
    /// Whether each sample has its own kernels: `w [N·O, …]`, `b [N, O]`.
    pub per_sample: bool,
}

impl Sizes {
    /// The only place where the shapes of a convolution are checked.
    pub fn check<T: Real>(
        op: &'static str,
        x: &Tensor<T>,
        weight: &Tensor<T>,
        geo: &Geometry,
        per_sample: bool,
    ) -> Result<Self> {
        Self::of(op, x.dims(op, "x")?, weight, geo, per_sample)
    }

    /// The same for an input of the shape `[N, C, H, W]`.
    pub fn of<T: Real>(
        op: &'static str,
        [n, c, h, w]: [usize; 4],
        weight: &Tensor<T>,
        geo: &Geometry,
        per_sample: bool,
    ) -> Result<Self> {
        let [kernels, cg, kh, kw] = weight.dims(op, "w")?;
        let Geometry { stride, padding, dilation, groups } = *geo;
        if [stride, dilation].concat().contains(&0) || groups == 0 {
            return Err(Error::invalid(op, format!("stride, dilation and groups must be at least 1, got {geo:?}")));
        }
        if [c, h, w].contains(&0) {
            return Err(Error::shape(op, "x", "[N, C, H, W] with at least one channel and one pixel", &[n, c, h, w]));
        }
        if [kernels, kh, kw].contains(&0) {
            return Err(Error::shape(op, "w", "[O, C/g, kh, kw] with at least one kernel and one tap", weight.shape()));
        }
        if per_sample && (n == 0 || kernels % n > 0) {
            let expected = format!("[N·O, C/g, kh, kw], O kernels for each of {n} samples");
            return Err(Error::shape(op, "w", expected, weight.shape()));
        }
        let o = if per_sample { kernels / n } else { kernels };
        if c % groups > 0 || o % groups > 0 {
            let message = format!("{groups} groups do not divide {c} input channels and {o} output channels");
            return Err(Error::invalid(op, message));
        }
        if cg != c / groups {
            let expected = format!("[O, {}, kh, kw] for {c} input channels in {groups} groups", c / groups);
            return Err(Error::shape(op, "w", expected, weight.shape()));
        }
        let Some([oh, ow]) = geo.output(h, w, kh, kw) else {
            let message = format!(
                "a {kh}x{kw} kernel with dilation {dilation:?} is larger than the {h}x{w} image \
                 with padding {padding:?}"
            );
            return Err(Error::invalid(op, message));
        };
        let widest = [n.max(1), oh.max(h), ow.max(w), c.max(o).max(cg * kh * kw)];
        if widest.iter().try_fold(1usize, |product, &extent| product.checked_mul(extent)).is_none() {
            return Err(Error::invalid(op, format!("an output of {n}x{o}x{oh}x{ow} does not fit in memory")));
        }
        Ok(Sizes { n, c, h, w, o, kh, kw, oh, ow, geo: *geo, per_sample })
    }

    /// Checks the bias: `[O]`, or `[N, O]` with one for each sample.
    pub fn check_bias<T: Real>(&self, op: &'static str, b: &Tensor<T>) -> Result<()> {
        let fits = if self.per_sample { b.shape()[..] == [self.n, self.o] } else { b.shape()[..] == [self.o] };
        let expected = if self.per_sample { format!("[{}, {}]", self.n, self.o) } else { format!("[{}]", self.o) };
        if fits { Ok(()) } else { Err(Error::shape(op, "b", expected, b.shape())) }
    }

    /// Checks the gradient of the output against the output's shape.
    pub fn check_dy<T: Real>(&self, op: &'static str, dy: &Tensor<T>) -> Result<()> {
        let expected = self.y_shape();
        if dy.shape()[..] == expected {
            Ok(())
        } else {
            Err(Error::shape(op, "dy", format!("{expected:?}"), dy.shape()))
        }
    }

    /// `[N, O, OH, OW]`.
    pub fn y_shape(&self) -> [usize; 4] {
        [self.n, self.o, self.oh, self.ow]
    }

    /// Elements of the input.
    pub fn inputs(&self) -> usize {
        self.n * self.h * self.w * self.c
    }

    /// Input channels of a group.
    pub fn cg(&self) -> usize {
        self.c / self.geo.groups
    }

    /// Output channels of a group.
    pub fn og(&self) -> usize {
        self.o / self.geo.groups
    }

    /// Weights of one output channel: `kh·kw·C/g`.
    pub fn taps(&self) -> usize {
        self.kh * self.kw * self.cg()
    }

    /// Weights of all output channels (of one sample).
    pub fn weights(&self) -> usize {
        self.o * self.taps()
    }

    /// Multiply-adds of (conv.1).
    pub fn macs(&self) -> usize {
        (self.n * self.oh * self.ow).saturating_mul(self.weights())
    }

    /// Rows of the input as a patch reaches over them.
    pub fn reach(&self) -> usize {
        (self.kh - 1) * self.geo.dilation[0] + 1
    }

    /// The input row under tap `u` of output row `i`, `i·s + u·d − p`, if it lies inside the image.
    pub fn row_under(&self, i: usize, u: usize) -> Option<usize> {
        let ([s, _], [p, _], [d, _]) = (self.geo.stride, self.geo.padding, self.geo.dilation);
        (i * s + u * d).checked_sub(p).filter(|&h| h < self.h)
    }

    /// The output row whose tap `u` lands on input row `h`, if there is one.
    pub fn row_above(&self, h: usize, u: usize) -> Option<usize> {
        let ([s, _], [p, _], [d, _]) = (self.geo.stride, self.geo.padding, self.geo.dilation);
        let scaled = (h + p).checked_sub(u * d)?;
        (scaled % s == 0 && scaled / s < self.oh).then_some(scaled / s)
    }
}

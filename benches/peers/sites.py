"""The kinds of convolution as PyTorch runs them fast: the modules of the golden files, which gatefold is tested against."""

import pathlib
import sys

import torch.nn.functional as F
from torch import Tensor, nn

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent.parent / "tests/golden"))

import dynamic
import nets
import reparameterised
from nets import Site

# gatefold's defaults.
OPTIONS = {
    "dyconv": {"kernels": 4, "temperature": 30.0, "hidden": 0.25},
    "condconv": {"experts": 8},
    "weightnet": {"m": 2, "g": 2},
    "dcd": {"squeeze": 8},
    "dynamicfilter": {"hidden": 0.25},
    "se": {"reduction": 4},
    "expandnet": reparameterised.DEFAULTS["expandnet"] | {"rate": 4},
    "acnet": reparameterised.DEFAULTS["acnet"],
    "repvgg": reparameterised.DEFAULTS["repvgg"],
}
MODULES = dynamic.KINDS | reparameterised.KINDS


def per_sample(site: Site, x: Tensor, w: Tensor) -> Tensor:
    """w[n] * x[n] in one call: a batch of products for 1x1, else the samples as groups of one convolution."""
    n, (h, width) = len(x), x.shape[2:]
    if site.k == site.stride == site.groups == 1 and site.padding == 0:
        w, x = w.flatten(1).view(n, site.cout, site.cin), x.flatten(2)
        # The product has the memory layout of the input.
        y = w @ x if x.is_contiguous() else (x.mT @ w.mT).mT
        return y.unflatten(2, (h, width))
    geometry = (site.stride, site.padding, site.dilation, n * site.groups)
    y = F.conv2d(x.reshape(1, n * site.cin, h, width), w.flatten(0, 1), None, *geometry)
    return y.view(n, site.cout, *y.shape[2:])


dynamic.per_sample = per_sample  # the golden files take one sample after the other


def build(kind: str, cin: int, cout: int, kernel: int = 1, stride: int = 1) -> nn.Module:
    """A site of `kind` where gatefold's backbones replace a convolution, without the activation behind it."""
    site = Site(cin, cout, kernel, stride, padding=kernel // 2)
    if kind in nets.KINDS:
        return nets.build_site(site, nets.Conv(kind))
    return MODULES[kind](site, OPTIONS[kind])

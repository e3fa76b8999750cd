"""SmallNet and its convolution sites in plain PyTorch: the oracle gatefold is compared with.

The keys of every `state_dict` here are the names gatefold writes into its files. "Paper" is Luo & Zhan, "Multi-layer
dynamic and asymmetric convolutions", High Technology Letters 2022(3).

    x  [N, Cin, H, W]        W_b [Cout, Cin/g, k, k]   bypass.conv.weight      F_1 [q, Cin]  attention.fc1.weight
    y  [N, Cout, OH, OW]     W_1 [m, Cin/g, k, k]      branch.conv1.weight     F_2 [m, q]    attention.fc2.weight
    a  [N, m]                W_2 [Cout, m/g, 1, 1]     branch.conv2.weight

W_b and W_1 carry stride, padding, dilation and groups; W_2 is 1x1 with the same groups.
"""

import argparse
import math
from dataclasses import dataclass, replace

import torch.nn.functional as F
from torch import Tensor, nn

KINDS = ("static", "maconv", "mdconv")
FORMS = ("expanded", "expanded-bn-after", "compact", "compact-bias", "folded")
GATES = ("sigmoid", "softmax")
ACTIVATIONS = ("gate", "relu")


@dataclass(frozen=True)
class Conv:
    """A kind of convolution with its options; `static` uses `form` only to know whether it is folded."""

    kind: str = "mdconv"
    form: str = "expanded"
    m: int = 20
    gate: str = "sigmoid"
    temperature: float = 1.0  # of the softmax; the sigmoid has none
    hidden: float = 0.25
    bypass: bool = True
    activation: str = "gate"  # `relu`: ReLU(BN_1(..)) in place of the gate, no attention network

    def __post_init__(self) -> None:
        for value, allowed in (
            (self.kind, KINDS),
            (self.form, FORMS),
            (self.gate, GATES),
            (self.activation, ACTIVATIONS),
        ):
            if value not in allowed:
                raise ValueError(f"`{value}` is none of {', '.join(allowed)}")
        if self.relu and self.form not in ("expanded", "expanded-bn-after"):
            raise ValueError(f"a branch with ReLU inside is not linear: it has no form `{self.form}`")

    @property
    def dynamic(self) -> bool:
        """Whether the kernel depends on the sample."""
        return self.kind == "mdconv" and self.activation == "gate"

    @property
    def relu(self) -> bool:
        """Whether a ReLU stands where the gate would."""
        return self.kind != "static" and self.activation == "relu"


@dataclass(frozen=True)
class Site:
    """Where a convolution stands: what it maps to what."""

    cin: int
    cout: int
    k: int = 1
    stride: int = 1
    padding: int = 0
    dilation: int = 1
    groups: int = 1


class ConvBn(nn.Module):
    """A convolution without bias and its batch norm; keys `conv.weight`, `bn.*`."""

    def __init__(self, site: Site):
        super().__init__()
        self.conv = conv(site, site.cout)
        self.bn = nn.BatchNorm2d(site.cout)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x))


class Folded(nn.Module):
    """What a static site or an MAConv folds to: one convolution with bias; keys `conv.{weight,bias}`."""

    def __init__(self, site: Site):
        super().__init__()
        self.conv = conv(site, site.cout, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class Branch(nn.Module):
    """W_1, W_2 and, in the expanded form, their batch norms: the parameters of the dynamic branch."""

    def __init__(self, site: Site, options: Conv, bias1: bool, bias2: bool):
        super().__init__()
        self.conv1 = conv(site, options.m, bias=bias1)
        self.conv2 = conv(Site(options.m, site.cout, groups=site.groups), site.cout, bias=bias2)
        if options.form == "expanded":
            self.bn1 = nn.BatchNorm2d(options.m)
            self.bn2 = nn.BatchNorm2d(site.cout)


class Attention(nn.Module):
    """a = gate(F_2 ReLU(F_1 GAP(x) + f_1) + f_2); F_1 Kaiming normal (fan in, ReLU), F_2 N(0, 0.01), biases 0."""

    def __init__(self, cin: int, options: Conv):
        super().__init__()
        hidden = max(1, math.floor(cin * options.hidden))
        self.fc1 = nn.Linear(cin, hidden)
        self.fc2 = nn.Linear(hidden, options.m)
        self.gate, self.temperature = options.gate, options.temperature
        nn.init.kaiming_normal_(self.fc1.weight, mode="fan_in", nonlinearity="relu")
        nn.init.normal_(self.fc2.weight, std=0.01)
        nn.init.zeros_(self.fc1.bias)
        nn.init.zeros_(self.fc2.bias)

    def forward(self, x: Tensor) -> Tensor:
        o = self.fc2(F.relu(self.fc1(x.mean(dim=(2, 3)))))
        return o.sigmoid() if self.gate == "sigmoid" else (o / self.temperature).softmax(dim=1)


class Layered(nn.Module):
    """MAConv and MDConv, every form. What the forms compute, BN_* being there or not:

    expanded           y = BN_b(W_b*x) + BN_2(W_2*(a . BN_1(W_1*x)))
    expanded-bn-after  y = BN(W_b*x + W_2*(a . W_1*x))
    compact            y = BN((W_b + W_2 A W_1)*x), one kernel a sample; the same function as expanded-bn-after
    compact-bias       y = BN((W_b + W_2 A W_1)*x + b_b + W_2 A b_1 + b_2)
    folded             y = (W_b + W_2 A W_1)*x + b_b + W_2 A b_1, the batch norms folded in (MDConv only)
    """

    def __init__(self, site: Site, options: Conv):
        super().__init__()
        self.site, self.options = site, options
        form = options.form
        if options.bypass:
            self.bypass = nn.Module()
            self.bypass.conv = conv(site, site.cout, bias=form in ("compact-bias", "folded"))
            if form == "expanded":
                self.bypass.bn = nn.BatchNorm2d(site.cout)
        # A folded site keeps both shifts, b_b + b_2, in the bypass; without one they stay with W_2.
        bias2 = form == "compact-bias" or (form == "folded" and not options.bypass)
        self.branch = Branch(site, options, bias1=form in ("compact-bias", "folded"), bias2=bias2)
        if options.dynamic:
            self.attention = Attention(site.cin, options)
        if form not in ("expanded", "folded"):
            self.bn = nn.BatchNorm2d(site.cout)

    def forward(self, x: Tensor) -> Tensor:
        a = self.attention(x) if self.options.dynamic else None
        if self.options.form == "expanded":
            y = self.branch.bn2(self.branch.conv2(self.gated(self.branch.bn1(self.branch.conv1(x)), a)))
            return y + self.bypass.bn(self.bypass.conv(x)) if self.options.bypass else y
        if self.options.form == "expanded-bn-after":
            y = self.branch.conv2(self.gated(self.branch.conv1(x), a))
            return self.bn(y + self.bypass.conv(x) if self.options.bypass else y)
        y = self.compact(x, a if a is not None else x.new_ones(1, self.options.m))
        return y if self.options.form == "folded" else self.bn(y)

    def gated(self, t: Tensor, a: Tensor | None) -> Tensor:
        """u = a . t; without a gate t itself, or ReLU(t)."""
        if self.options.relu:
            return F.relu(t)
        return t if a is None else a[:, :, None, None] * t

    def kernel(self, a: Tensor) -> tuple[Tensor, Tensor | None]:
        """W_b + W_2 A W_1 as [n, Cout, Cin/g, k, k] and b_b + W_2 A b_1 + b_2 as [n, Cout], one for each row of `a`."""
        site, g, n = self.site, self.site.groups, a.shape[0]
        w2a = self.branch.conv2.weight.reshape(g, site.cout // g, -1) * a.view(
            n, g, 1, -1
        )  # A scales the columns of W_2
        w = (w2a @ self.branch.conv1.weight.reshape(g, self.options.m // g, -1)).view(n, site.cout, -1, site.k, site.k)
        if self.options.bypass:
            w = w + self.bypass.conv.weight
        if self.branch.conv1.bias is None:
            return w, None
        b = (w2a @ self.branch.conv1.bias.view(g, -1, 1)).view(n, site.cout)
        if self.branch.conv2.bias is not None:
            b = b + self.branch.conv2.bias
        return w, b + self.bypass.conv.bias if self.options.bypass else b

    def compact(self, x: Tensor, a: Tensor) -> Tensor:
        """W(a)*x + b(a); where every sample has its own kernel, the samples become groups of one convolution."""
        site, n, samples = self.site, a.shape[0], x.shape[0]
        w, b = self.kernel(a)
        y = F.conv2d(
            x.reshape(samples // n, n * site.cin, *x.shape[2:]),
            w.flatten(0, 1),
            None if b is None else b.flatten(),
            site.stride,
            site.padding,
            site.dilation,
            groups=n * site.groups,
        )
        return y.view(samples, site.cout, *y.shape[2:])


def conv(site: Site, cout: int, bias: bool = False) -> nn.Conv2d:
    """nn.Conv2d of the site's geometry; PyTorch's default values, U(-1/sqrt(fan in), 1/sqrt(fan in))."""
    return nn.Conv2d(
        site.cin, cout, site.k, site.stride, site.padding, dilation=site.dilation, groups=site.groups, bias=bias
    )


def build_site(site: Site, options: Conv) -> nn.Module:
    """The module of a site: x to the normalised output, the activation that follows not included."""
    if options.kind == "static" or (options.form == "folded" and not options.dynamic):
        return Folded(site) if options.form == "folded" else ConvBn(site)
    return Layered(site, options)


class SmallNet(nn.Module):
    """3x3 stem, three blocks of pointwise and depthwise (stride 2), global pooling, classifier; BN and ReLU after every
    convolution. `width` scales every layer but the stem; the three pointwise convolutions are the replaced ones."""

    def __init__(self, options: Conv, width: float = 1.0, classes: int = 10):
        super().__init__()
        plain = replace(Conv("static"), form="folded" if options.form == "folded" else "expanded")
        channels = [16] + [int(c * width) for c in (16, 32, 64)]
        self.stem = build_site(Site(3, 16, k=3, padding=1), plain)
        self.blocks = nn.ModuleList()
        for cin, cout in zip(channels, channels[1:]):
            block = nn.Module()
            block.pointwise = build_site(Site(cin, cout), options)
            block.depthwise = build_site(Site(cout, cout, k=3, stride=2, padding=1, groups=cout), plain)
            self.blocks.append(block)
        self.classifier = nn.Linear(channels[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        for block in self.blocks:
            x = F.relu(block.depthwise(F.relu(block.pointwise(x))))
        return self.classifier(x.mean(dim=(2, 3)))


def fold_bn(weight: Tensor, bn: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """W' = s W, b' = beta - s mu with s = gamma / sqrt(v + eps)."""
    s = bn.weight / (bn.running_var + bn.eps).sqrt()
    return weight * s[:, None, None, None], bn.bias - s * bn.running_mean


def fold_site(module: ConvBn | Layered) -> nn.Module:
    """The folded site of one trained in the expanded form: the same function in eval mode."""
    if isinstance(module, ConvBn):
        c = module.conv
        site = Site(c.in_channels, c.out_channels, c.kernel_size[0], c.stride[0], c.padding[0], c.dilation[0], c.groups)
        folded = Folded(site).to(c.weight)
        w, b = fold_bn(c.weight, module.bn)
        folded.load_state_dict({"conv.weight": w, "conv.bias": b})
        return folded
    site, options = module.site, module.options
    if options.form != "expanded" or options.relu:
        raise ValueError("only the expanded form without ReLU in the branch is folded here")
    w1, b1 = fold_bn(module.branch.conv1.weight, module.branch.bn1)
    w2, b2 = fold_bn(module.branch.conv2.weight, module.branch.bn2)
    state = {"branch.conv1.weight": w1, "branch.conv1.bias": b1, "branch.conv2.weight": w2}
    if options.bypass:
        wb, bb = fold_bn(module.bypass.conv.weight, module.bypass.bn)
        state |= {"bypass.conv.weight": wb, "bypass.conv.bias": bb + b2}
    else:
        state |= {"branch.conv2.bias": b2}
    compact = Layered(site, replace(options, form="folded")).to(w1)
    if options.dynamic:
        state |= {f"attention.{name}": v for name, v in module.attention.state_dict().items()}
        compact.load_state_dict(state)
        return compact
    compact.load_state_dict(state)
    # MAConv: A = I, so the kernel is the same for every sample and can be written down once.
    w, b = compact.kernel(w1.new_ones(1, options.m))
    folded = Folded(site).to(w1)
    folded.load_state_dict({"conv.weight": w[0], "conv.bias": b[0]})
    return folded


def add_network_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that describe a network, named as on gatefold's command line."""
    default = Conv()
    parser.add_argument("--conv", choices=KINDS, default=default.kind, help="kind of convolution (default mdconv)")
    parser.add_argument("--width", type=float, default=1.0, help="multiplier of the widths (default 1)")
    parser.add_argument("--classes", type=int, default=10, help="number of classes (default 10)")
    parser.add_argument("--form", choices=FORMS, default=default.form, help="form of the sites (default expanded)")
    parser.add_argument("--m", type=int, default=default.m, help="channels of the branch (default 20)")
    parser.add_argument("--gate", choices=GATES, default=default.gate, help="gate of the attention (default sigmoid)")
    parser.add_argument("--temperature", type=float, default=default.temperature, help="of the softmax (default 1)")
    parser.add_argument("--hidden", type=float, default=default.hidden, help="attention width / Cin (default 0.25)")
    parser.add_argument("--no-bypass", dest="bypass", action="store_false", help="leave the static branch out")
    parser.add_argument(
        "--activation", choices=ACTIVATIONS, default=default.activation, help="`relu`: in place of the gate"
    )


def network(args: argparse.Namespace) -> SmallNet:
    """The SmallNet that the options of `add_network_arguments` describe, with initial values from torch's generator."""
    options = Conv(args.conv, args.form, args.m, args.gate, args.temperature, args.hidden, args.bypass, args.activation)
    return SmallNet(options, args.width, args.classes)

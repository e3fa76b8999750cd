"""The networks of gatefold in PyTorch, with the same layers and the same number of parameters."""

import torch
import torch.nn.functional as F
from torch import nn


def conv_bn(cin, cout, kernel=1, stride=1, groups=1):
    conv = nn.Conv2d(cin, cout, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(cout))


class MultiLayer(nn.Module):
    """A pointwise site as MAConv, or with `gate` as MDConv, in its expanded form: every convolution with its batch norm."""

    def __init__(self, cin, cout, gate, m=20):
        super().__init__()
        self.bypass = conv_bn(cin, cout)
        self.first, self.second = conv_bn(cin, m), conv_bn(m, cout)
        hidden = cin // 4
        attention = nn.Sequential(nn.Linear(cin, hidden), nn.ReLU(), nn.Linear(hidden, m), nn.Sigmoid())
        self.attention = attention if gate else None

    def forward(self, x):
        between = self.first(x)
        if self.attention is not None:
            between = between * self.attention(x.mean((2, 3)))[:, :, None, None]
        return self.bypass(x) + self.second(between)


SITES = {
    "static": conv_bn,
    "maconv": lambda cin, cout: MultiLayer(cin, cout, gate=False),
    "mdconv": lambda cin, cout: MultiLayer(cin, cout, gate=True),
}


class SmallNet(nn.Module):
    """A 3x3 stem, three pairs of a pointwise site and a strided depthwise convolution, a classifier."""

    def __init__(self, conv):
        super().__init__()
        layers = [conv_bn(3, 16, 3), nn.ReLU(inplace=True)]
        for cin, cout in [(16, 16), (16, 32), (32, 64)]:
            layers += [SITES[conv](cin, cout), nn.ReLU(inplace=True)]
            layers += [conv_bn(cout, cout, 3, 2, cout), nn.ReLU(inplace=True)]
        self.features, self.classifier = nn.Sequential(*layers), nn.Linear(64, 10)

    def forward(self, x):
        return self.classifier(self.features(x).mean((2, 3)))


class InvertedResidual(nn.Module):
    """Expansion (none at factor 1), depthwise, projection; a shortcut where the shapes agree."""

    def __init__(self, cin, cout, stride, expansion):
        super().__init__()
        hidden = cin * expansion
        layers = [] if expansion == 1 else [conv_bn(cin, hidden), nn.ReLU6(inplace=True)]
        layers += [conv_bn(hidden, hidden, 3, stride, hidden), nn.ReLU6(inplace=True), conv_bn(hidden, cout)]
        self.layers, self.shortcut = nn.Sequential(*layers), stride == 1 and cin == cout

    def forward(self, x):
        return x + self.layers(x) if self.shortcut else self.layers(x)


def scaled(channels, width):
    """The nearest multiple of 8, at least 8 and not below 90 % (`_make_divisible` of the field)."""
    value = max(8, int(channels * width + 4) // 8 * 8)
    return value + 8 if value < 0.9 * channels * width else value


class MobileNetV2(nn.Module):
    """The form for 32 x 32 images: strides 1, 1, 2, 2, 1, 2, 1 behind a stem of stride 1."""

    STAGES = [(1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)]

    def __init__(self, width):
        super().__init__()
        cin = scaled(32, width)
        layers = [conv_bn(3, cin, 3), nn.ReLU6(inplace=True)]
        for expansion, channels, repeats, stride in self.STAGES:
            cout = scaled(channels, width)
            for repeat in range(repeats):
                layers.append(InvertedResidual(cin, cout, stride if repeat == 0 else 1, expansion))
                cin = cout
        layers += [conv_bn(cin, 1280), nn.ReLU6(inplace=True)]
        self.features, self.classifier = nn.Sequential(*layers), nn.Linear(1280, 10)

    def forward(self, x):
        return self.classifier(self.features(x).mean((2, 3)))


def build(model, conv):
    torch.manual_seed(0)
    return {"smallnet": lambda: SmallNet(conv), "mobilenetv2": lambda: MobileNetV2(0.35)}[model]()


def random_statistics(network):
    """Running statistics unlike those of a new network, so that folding a batch norm changes something."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 2)
    return network


def loss(network, images, labels):
    return F.cross_entropy(network(images), labels)

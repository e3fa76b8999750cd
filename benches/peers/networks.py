"""The networks of gatefold in PyTorch, with the same layers and the same number of parameters."""

import torch
import torch.nn.functional as F
from torch import nn

import sites


def conv_bn(cin, cout, kernel=1, stride=1, groups=1):
    conv = nn.Conv2d(cin, cout, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(cout))


class SmallNet(nn.Module):
    """A 3x3 stem, three pairs of a pointwise site and a strided depthwise convolution, a classifier."""

    def __init__(self, conv):
        super().__init__()
        layers = [conv_bn(3, 16, 3), nn.ReLU(inplace=True)]
        for cin, cout in [(16, 16), (16, 32), (32, 64)]:
            layers += [sites.build(conv, cin, cout), nn.ReLU(inplace=True)]
            layers += [conv_bn(cout, cout, 3, 2, cout), nn.ReLU(inplace=True)]
        self.features, self.classifier = nn.Sequential(*layers), nn.Linear(64, 10)

    def forward(self, x):
        return self.classifier(self.features(x).mean((2, 3)))


class InvertedResidual(nn.Module):
    """Expansion (none at factor 1), depthwise, projection; a shortcut where the shapes agree."""

    def __init__(self, conv, cin, cout, stride, expansion):
        super().__init__()
        hidden = cin * expansion
        layers = [] if expansion == 1 else [sites.build(conv, cin, hidden), nn.ReLU6(inplace=True)]
        layers += [conv_bn(hidden, hidden, 3, stride, hidden), nn.ReLU6(inplace=True), sites.build(conv, hidden, cout)]
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

    def __init__(self, conv, width):
        super().__init__()
        cin = scaled(32, width)
        layers = [conv_bn(3, cin, 3), nn.ReLU6(inplace=True)]
        for expansion, channels, repeats, stride in self.STAGES:
            cout = scaled(channels, width)
            for repeat in range(repeats):
                layers.append(InvertedResidual(conv, cin, cout, stride if repeat == 0 else 1, expansion))
                cin = cout
        layers += [conv_bn(cin, 1280), nn.ReLU6(inplace=True)]
        self.features, self.classifier = nn.Sequential(*layers), nn.Linear(1280, 10)

    def forward(self, x):
        return self.classifier(self.features(x).mean((2, 3)))


class Unit(nn.Module):
    """Stride 1: half of the channels passes by. Stride 2: two branches. Then the channels are shuffled."""

    def __init__(self, conv, cin, cout, stride):
        super().__init__()
        half, relu = cout // 2, lambda: nn.ReLU(inplace=True)
        self.left, right = None, half
        if stride == 2:
            self.left, right = nn.Sequential(conv_bn(cin, cin, 3, 2, cin), sites.build(conv, cin, half), relu()), cin
        layers = [sites.build(conv, right, half), relu(), conv_bn(half, half, 3, stride, half)]
        self.right = nn.Sequential(*layers, sites.build(conv, half, half), relu())

    def forward(self, x):
        left, right = x.chunk(2, 1) if self.left is None else (self.left(x), x)
        return F.channel_shuffle(torch.cat([left, self.right(right)], 1), 2)


class ShuffleNetV2(nn.Module):
    """The form for 32 x 32 images of width 0.5: a stem of stride 1 and no max-pool."""

    def __init__(self, conv):
        super().__init__()
        cin = 24
        layers = [conv_bn(3, cin, 3), nn.ReLU(inplace=True)]
        for cout, units in [(48, 4), (96, 8), (192, 4)]:
            for unit in range(units):
                layers.append(Unit(conv, cin, cout, 2 if unit == 0 else 1))
                cin = cout
        layers += [conv_bn(cin, 1024), nn.ReLU(inplace=True)]
        self.features, self.classifier = nn.Sequential(*layers), nn.Linear(1024, 10)

    def forward(self, x):
        return self.classifier(self.features(x).mean((2, 3)))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut."""

    def __init__(self, conv, cin, cout, stride):
        super().__init__()
        layers = [sites.build(conv, cin, cout, 3, stride), nn.ReLU(inplace=True), sites.build(conv, cout, cout, 3)]
        self.layers = nn.Sequential(*layers)
        self.shortcut = conv_bn(cin, cout, 1, stride) if stride > 1 or cin != cout else nn.Identity()

    def forward(self, x):
        return F.relu(self.layers(x) + self.shortcut(x), inplace=True)


class ResNet18(nn.Module):
    """The form for 32 x 32 images: a 3x3 stem of stride 1 and no max-pool."""

    def __init__(self, conv, width):
        super().__init__()
        channels = [round(c * width) for c in (64, 128, 256, 512)]
        cin = channels[0]
        layers = [conv_bn(3, cin, 3), nn.ReLU(inplace=True)]
        for stage, cout in enumerate(channels):
            layers += [BasicBlock(conv, cin, cout, 2 if stage else 1), BasicBlock(conv, cout, cout, 1)]
            cin = cout
        self.features, self.classifier = nn.Sequential(*layers), nn.Linear(cin, 10)

    def forward(self, x):
        return self.classifier(self.features(x).mean((2, 3)))


MODELS = {
    "smallnet": SmallNet,
    "mobilenetv2": lambda conv: MobileNetV2(conv, 0.35),
    "shufflenetv2": ShuffleNetV2,
    "resnet18": lambda conv: ResNet18(conv, 0.25),
}


def build(model, conv, layout=torch.contiguous_format):
    """A new network, its kernels in a memory layout; `Module.to` refuses the five axes of experts."""
    torch.manual_seed(0)
    network = MODELS[model](conv)
    for parameter in network.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.to(memory_format=layout)
    return network


def random_statistics(network):
    """Running statistics unlike those of a new network, so that folding a batch norm changes something."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 2)
    return network


def loss(network, images, labels):
    return F.cross_entropy(network(images), labels)

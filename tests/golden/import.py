"""Logits of networks by others whose weights and images are given by formula: `import.json`. Those of torchvision are
its own; those with the names of RepVGG's and ACNet's authors are the plain modules below.

The formula stands here and in `crates/models/src/import/tests.rs`; the file holds every name with its shape, and the
logits. Like that 11 million values take fifty kilobytes. `python import.py --check` compares a fresh run.

`--photos DIR` makes `photos.json` instead: the logits of torchvision's networks for some photos of DIR, in ImageNet's layout,
through torchvision's transforms. The photos may not be passed on; a test looks for them beside the project.
"""

import argparse
import json
import math
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision import transforms
from torchvision.models import mobilenet_v2, resnet18, shufflenet_v2_x0_5, shufflenet_v2_x1_0

FILE = Path(__file__).parent / "import.json"
OF_PHOTOS = FILE.with_name("photos.json")
CLASSES = 7
IMAGES = [2, 3, 70, 66]  # more than 64 pixels: the form for photos; odd sizes on the way


class ConvBn(nn.Module):
    """A convolution and its batch norm, called `conv` and `bn`."""

    def __init__(self, cin: int, cout: int, kernel: int, stride: int = 1, groups: int = 1):
        super().__init__()
        self.conv = nn.Conv2d(cin, cout, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(cout)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x))


class RepVggBlock(nn.Module):
    """ReLU(BN(3x3 x) + BN(1x1 x) + BN(x)), the last where the shape stays the same."""

    def __init__(self, cin: int, cout: int, stride: int, groups: int):
        super().__init__()
        self.rbr_dense = ConvBn(cin, cout, 3, stride, groups)
        self.rbr_1x1 = ConvBn(cin, cout, 1, stride, groups)
        self.rbr_identity = nn.BatchNorm2d(cout) if cin == cout and stride == 1 else None

    def forward(self, x: Tensor) -> Tensor:
        y = self.rbr_dense(x) + self.rbr_1x1(x)
        return torch.relu(y if self.rbr_identity is None else y + self.rbr_identity(x))


class RepVgg(nn.Module):
    """`multipliers` are a and b of the paper's table 2; layers 2, 4, ... have groups, the stem is layer 0."""

    def __init__(self, blocks: list[int], multipliers: tuple[float, float], groups: int = 1):
        super().__init__()
        a, b = multipliers
        channels = [int(64 * a), int(128 * a), int(256 * a), int(512 * b)]
        cin, layer = min(64, channels[0]), 1
        self.stage0 = RepVggBlock(3, cin, 2, 1)
        for stage, (cout, count) in enumerate(zip(channels, blocks), 1):
            row = nn.Sequential()
            for i in range(count):
                row.append(RepVggBlock(cin, cout, 2 if i == 0 else 1, groups if layer % 2 == 0 else 1))
                cin, layer = cout, layer + 1
            self.add_module(f"stage{stage}", row)
        self.linear = nn.Linear(cin, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        for stage in [self.stage0, self.stage1, self.stage2, self.stage3, self.stage4]:
            x = stage(x)
        return self.linear(x.mean((2, 3)))


class AcBlock(nn.Module):
    """BN(3x3 x) + BN(3x1 x) + BN(1x3 x)."""

    def __init__(self, cin: int, cout: int, stride: int):
        super().__init__()
        for name, height, width in [("square", 3, 3), ("ver", 3, 1), ("hor", 1, 3)]:
            padding = (height // 2, width // 2)
            self.add_module(f"{name}_conv", nn.Conv2d(cin, cout, (height, width), stride, padding, bias=False))
            self.add_module(f"{name}_bn", nn.BatchNorm2d(cout))

    def forward(self, x: Tensor) -> Tensor:
        branches = [(self.square_conv, self.square_bn), (self.ver_conv, self.ver_bn), (self.hor_conv, self.hor_bn)]
        return sum(bn(conv(x)) for conv, bn in branches)


class Named(nn.Module):
    """`inner` under a name more."""

    def __init__(self, name: str, inner: nn.Module):
        super().__init__()
        self.add_module(name, inner)
        self.inner_name = name

    def forward(self, x: Tensor) -> Tensor:
        return self.get_submodule(self.inner_name)(x)


class AcBasicBlock(nn.Module):
    """A basic block of two asymmetric blocks; `names` says whose names it has."""

    def __init__(self, cin: int, cout: int, stride: int, names: str):
        super().__init__()
        first = AcBlock(cin, cout, stride)
        self.conv1 = Named("acb", first) if names == "ACNet" else first
        self.conv2 = AcBlock(cout, cout, 1)
        self.shortcut_name = "downsample" if names == "torchvision" else "shortcut"
        shortcut: nn.Module = nn.Identity()
        if stride > 1 or cin != cout:
            shortcut = ConvBn(cin, cout, 1, stride)
            if names == "torchvision":
                shortcut = nn.Sequential(shortcut.conv, shortcut.bn)
        self.add_module(self.shortcut_name, shortcut)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.conv2(torch.relu(self.conv1(x))) + self.get_submodule(self.shortcut_name)(x))


class AcResNet18(nn.Module):
    """ResNet18 with asymmetric blocks, under the names of ACNet, of DiverseBranchBlock or of torchvision."""

    def __init__(self, names: str, width: float):
        super().__init__()
        channels = [int(c * width) for c in (64, 128, 256, 512)]
        cin, stem = channels[0], ConvBn(3, channels[0], 7, 2)
        self.names = names
        if names == "torchvision":
            self.conv1, self.bn1 = stem.conv, stem.bn
        elif names == "ACNet":
            self.conv1 = stem
        else:
            self.stage0 = Named("conv1", stem)
        self.stages = []
        for stage, cout in enumerate(channels, 1):
            strides = [2 if stage > 1 else 1, 1]
            name = f"layer{stage}" if names == "torchvision" else f"stage{stage}"
            row = nn.Sequential(*(AcBasicBlock(c, cout, s, names) for c, s in zip([cin, cout], strides)))
            self.add_module(name, row)
            self.stages.append(name)
            cin = cout
        self.classifier_name = "fc" if names == "torchvision" else "linear"
        self.add_module(self.classifier_name, nn.Linear(cin, CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        stems = {"torchvision": lambda: self.bn1(self.conv1(x)), "ACNet": lambda: self.conv1(x)}
        y = torch.relu(stems.get(self.names, lambda: self.stage0(x))())
        y = torch.max_pool2d(y, 3, 2, 1)
        for stage in self.stages:
            y = self.get_submodule(stage)(y)
        return self.get_submodule(self.classifier_name)(y.mean((2, 3)))


NETWORKS = {
    "mobilenet_v2 x0.1": lambda: mobilenet_v2(width_mult=0.1, num_classes=CLASSES),
    "mobilenet_v2 x1": lambda: mobilenet_v2(num_classes=CLASSES),
    "shufflenet_v2_x0_5": lambda: shufflenet_v2_x0_5(num_classes=CLASSES),
    "shufflenet_v2_x1_0": lambda: shufflenet_v2_x1_0(num_classes=CLASSES),
    "resnet18": lambda: resnet18(num_classes=CLASSES),
    "RepVGG-A0": lambda: RepVgg([2, 4, 14, 1], (0.75, 2.5)),
    "RepVGG-B1g4 x0.25": lambda: RepVgg([4, 6, 16, 1], (0.5, 1.0), groups=4),
    "ACNet ResNet18": lambda: AcResNet18("ACNet", 1.0),
    "ACNet ResNet18 x0.25, DiverseBranchBlock": lambda: AcResNet18("DiverseBranchBlock", 0.25),
    "ACNet ResNet18 x0.25, torchvision": lambda: AcResNet18("torchvision", 0.25),
}


def uniform(name: str, count: int) -> np.ndarray:
    """`count` multiples of 2^-24 in [0, 1): splitmix64, seeded with the FNV-1a hash of the name."""
    seed = 0xCBF29CE484222325
    for byte in name.encode():
        seed = (seed ^ byte) * 0x100000001B3 % 2**64
    with np.errstate(over="ignore"):
        z = np.uint64(seed) + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    return (z >> np.uint64(40)).astype(np.float64) / 2**24


def bounds(name: str, shape: list[int]) -> tuple[float, float]:
    if name.endswith("running_var"):
        # Branches that are added up: like that the sum does not grow from block to block.
        return (4.0, 8.0) if "rbr_" in name or "_bn." in name else (0.5, 2.0)
    if len(shape) == 1 and name.endswith("weight"):
        return 0.5, 1.5
    if len(shape) == 1:
        return -0.3, 0.3
    if name == "images":
        return -2.0, 2.0
    bound = math.sqrt(6.0 / math.prod(shape[1:]))
    return -bound, bound


def values(name: str, shape: list[int]) -> torch.Tensor:
    """Rounded to f32, as a file holds them, and widened again."""
    low, high = bounds(name, shape)
    flat = (low + (high - low) * uniform(name, math.prod(shape))).astype(np.float32).astype(np.float64)
    return torch.from_numpy(flat).reshape(shape)


def by_formula(make) -> tuple[nn.Module, dict[str, list[int]]]:
    """A network, and its names with their shapes."""
    model = make().double().eval()
    names = {k: list(v.shape) for k, v in model.state_dict().items() if not k.endswith("num_batches_tracked")}
    model.load_state_dict({k: values(k, shape) for k, shape in names.items()}, strict=False)
    return model, names


def golden(make) -> dict:
    model, names = by_formula(make)
    with torch.no_grad():
        return {"names": names, "logits": model(values("images", IMAGES)).tolist()}


def golden_of_photos(folder: Path) -> dict:
    """The first photo of some classes; pixels in f64."""
    classes = sorted(path for path in (folder / "val").iterdir() if path.is_dir())[:4]
    photos = [min(of_class.iterdir()) for of_class in classes]
    evaluate = transforms.Compose([transforms.Resize(256), transforms.CenterCrop(224), transforms.PILToTensor()])
    mean, std = (torch.tensor(v).double().reshape(3, 1, 1) for v in [[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])
    x = torch.stack([(evaluate(Image.open(photo).convert("RGB")).double() / 255 - mean) / std for photo in photos])
    logits = {}
    for network in ["mobilenet_v2 x1", "shufflenet_v2_x0_5", "shufflenet_v2_x1_0", "resnet18"]:
        with torch.no_grad():
            logits[network] = by_formula(NETWORKS[network])[0](x).tolist()
    return {"photos": [str(photo.relative_to(folder)) for photo in photos], "logits": logits}


def text(goldens: dict) -> str:
    """One name a line."""
    networks = []
    for network, of in goldens.items():
        names = ",\n".join(f"    {json.dumps(k)}: {v}" for k, v in of["names"].items())
        networks.append(f'{json.dumps(network)}: {{\n  "names": {{\n{names}\n  }},\n  "logits": {of["logits"]}\n}}')
    return "{\n" + ",\n".join(networks) + "\n}\n"


def assert_same(network: str, got: list, expected: list) -> None:
    got, expected = np.array(got), np.array(expected)
    assert np.abs(got - expected).max() <= 1e-12 * np.abs(expected).max(), network


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare with the file and write nothing")
    parser.add_argument("--photos", type=Path, metavar="DIR", help="make photos.json; DIR holds val/CLASS/FILE")
    args = parser.parse_args()
    check = args.check
    torch.set_num_threads(1)
    if args.photos:
        fresh = golden_of_photos(args.photos)
        if not check:
            OF_PHOTOS.write_text(json.dumps(fresh).replace(' "logits": {', '\n"logits": {').replace("]], ", "]],\n ") + "\n")
            return
        kept = json.loads(OF_PHOTOS.read_text())
        assert kept["photos"] == fresh["photos"]
        for network, of in fresh["logits"].items():
            assert_same(network, of, kept["logits"][network])
        print(f"{len(fresh['photos'])} photos by {len(fresh['logits'])} networks as kept")
        return
    fresh = {network: golden(make) for network, make in NETWORKS.items()}
    if not check:
        FILE.write_text(text(fresh))
        return
    kept = json.loads(FILE.read_text())
    for network, of in fresh.items():
        assert kept[network]["names"] == of["names"], network
        assert_same(network, of["logits"], kept[network]["logits"])
    print(f"{len(fresh)} networks as kept")


if __name__ == "__main__":
    main()

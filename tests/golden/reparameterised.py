"""ExpandNet, ACNet and RepVGG in plain PyTorch, and the golden file of their sites.

    python reparameterised.py            writes reparameterised.safetensors and reparameterised.json beside this script
    python reparameterised.py --check    computes everything anew and compares; exit status 1 if something differs

The keys of every `state_dict` are the names gatefold writes. Kernels are folded here by what convolutions do to unit
impulses, not by the algebra of gatefold's folds: two derivations of one result.
"""

import argparse
import json
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from generate import Cases, Random, differences, randomise, same, values
from nets import Site

HERE = Path(__file__).parent
NAME = "reparameterised"


class ConvBn(nn.Module):
    """A kernel of `taps` over the windows of the site: where an axis has the central tap alone, pad or crop as needed."""

    def __init__(self, site: Site, taps: tuple[int, int]):
        super().__init__()
        over = site.padding - site.dilation * (site.k // 2)  # beyond what the central tap needs; below 0: crop
        pads = [site.padding if t == site.k else over for t in taps]
        self.crop = [max(0, -p) for p in pads]
        padding = [max(0, p) for p in pads]
        self.conv = nn.Conv2d(
            site.cin, site.cout, taps, site.stride, padding, dilation=site.dilation, groups=site.groups, bias=False
        )
        self.bn = nn.BatchNorm2d(site.cout)

    def forward(self, x: Tensor) -> Tensor:
        (i, j), (h, w) = self.crop, x.shape[2:]
        return self.bn(self.conv(x[:, :, i : h - i, j : w - j]))


class ACNet(nn.Module):
    """y = BN_s(K*x) + BN_v(K_v*x) + BN_h(K_h*x)"""

    def __init__(self, site: Site, options: dict):
        super().__init__()
        self.square = ConvBn(site, (site.k, site.k))
        self.vertical = ConvBn(site, (site.k, 1))
        self.horizontal = ConvBn(site, (1, site.k))

    def forward(self, x: Tensor) -> Tensor:
        return self.square(x) + self.vertical(x) + self.horizontal(x)


class RepVGG(nn.Module):
    """y = BN_d(K*x) + BN_p(K_p*x) + BN_i(x), the last where the output has the shape of the input"""

    def __init__(self, site: Site, options: dict):
        super().__init__()
        self.dense = ConvBn(site, (site.k, site.k))
        self.pointwise = ConvBn(site, (1, 1)) if options["pointwise"] else None
        self.identity = None
        if options["identity"] and site.cin == site.cout and site.stride == 1:
            self.identity = nn.Module()
            self.identity.bn = nn.BatchNorm2d(site.cout)

    def forward(self, x: Tensor) -> Tensor:
        y = self.dense(x)
        if self.pointwise is not None:
            y = y + self.pointwise(x)
        return y if self.identity is None else y + self.identity.bn(x)


class ExpandNet(nn.Module):
    """y = BN(W_3*BN_2(W_2*BN_1(W_1*x))), BN_1 and BN_2 being there or not; the padding on W_1, or, naively, on W_2"""

    def __init__(self, site: Site, options: dict):
        super().__init__()
        wide_in, wide_out, g = options["rate"] * site.cin, options["rate"] * site.cout, site.groups
        first, second = (site.padding, 0) if options["padding"] == "first" else (0, site.padding)
        bias, norm = options["bias"], nn.BatchNorm2d if options["inner-norms"] else nn.Identity
        self.conv1 = nn.Conv2d(site.cin, wide_in, 1, padding=first, groups=g, bias=bias)
        self.bn1 = norm(wide_in)
        self.conv2 = nn.Conv2d(
            wide_in, wide_out, site.k, site.stride, second, dilation=site.dilation, groups=g, bias=bias
        )
        self.bn2 = norm(wide_out)
        self.conv3 = nn.Conv2d(wide_out, site.cout, 1, groups=g, bias=bias)
        self.bn = nn.BatchNorm2d(site.cout)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv3(self.bn2(self.conv2(self.bn1(self.conv1(x))))))


KINDS = {"acnet": ACNet, "repvgg": RepVGG, "expandnet": ExpandNet}
DEFAULTS = {
    "acnet": {"gamma": 1.0},
    "repvgg": {"pointwise": True, "identity": True},
    "expandnet": {"rate": 2, "bias": False, "inner-norms": False, "padding": "first"},
}


def build(site: Site, kind: str, options: dict) -> nn.Module:
    return KINDS[kind](site, options).double()


def folds(site: Site, options: dict) -> bool:
    """Whether one kernel and one bias are the site at the border too."""
    shifted = options.get("bias") or options.get("inner-norms")
    return not (options.get("padding") == "naive" and site.padding and shifted)


def fold(site: Site, module: nn.Module) -> dict[str, Tensor]:
    """Kernel and bias from the answers of the site, in eval mode, to no input and to a single 1 at each tap."""
    reach = site.dilation * (site.k - 1) + 1
    size = reach + 2 * site.padding  # so that one whole window lies inside
    at = -(-site.padding // site.stride)  # the first output whose window does
    first = at * site.stride - site.padding
    size = max(size, first + reach)
    answer = lambda x: module(x)[0, :, at, at]
    b = answer(torch.zeros(1, site.cin, size, size, dtype=torch.float64))
    inputs, outputs = site.cin // site.groups, site.cout // site.groups
    w = torch.zeros(site.cout, inputs, site.k, site.k, dtype=torch.float64)
    for c in range(site.cin):
        group = slice(c // inputs * outputs, (c // inputs + 1) * outputs)
        for u in range(site.k):
            for v in range(site.k):
                x = torch.zeros(1, site.cin, size, size, dtype=torch.float64)
                x[0, c, first + u * site.dilation, first + v * site.dilation] = 1
                w[group, c % inputs, u, v] = (answer(x) - b)[group]
    return {"conv.weight": w, "conv.bias": b}


def cases() -> dict[str, tuple[str, dict, Site, tuple[int, int, int]]]:
    """Name: kind, options that are not the default, site, and N, H, W of the input."""
    same3 = Site(4, 4, k=3, padding=1)
    stride2 = Site(3, 4, k=3, stride=2, padding=1)
    groups2 = Site(4, 4, k=3, padding=2, dilation=2, groups=2)
    depthwise = Site(4, 4, k=3, stride=2, padding=1, groups=4)
    table = {}
    for kind in KINDS:
        table |= {
            f"{kind}/same": (kind, {}, same3, (2, 4, 5)),
            f"{kind}/stride2": (kind, {}, stride2, (3, 6, 5)),
            f"{kind}/groups2_dilation2": (kind, {}, groups2, (2, 5, 4)),
            f"{kind}/depthwise": (kind, {}, depthwise, (3, 5, 4)),
        }
    inner = {"inner-norms": True}
    return table | {
        "acnet/k5_cropped": ("acnet", {}, Site(2, 3, k=5, padding=1), (2, 6, 7)),
        "acnet/padded_beyond": ("acnet", {}, Site(2, 3, k=3, padding=2, stride=2), (2, 4, 5)),
        "repvgg/k5": ("repvgg", {}, Site(3, 3, k=5, padding=2), (2, 4, 5)),
        "repvgg/no_identity": ("repvgg", {"identity": False}, same3, (2, 4, 5)),
        "repvgg/no_pointwise": ("repvgg", {"pointwise": False}, same3, (2, 4, 5)),
        "expandnet/pointwise": ("expandnet", {}, Site(4, 3), (3, 4, 3)),
        "expandnet/rate4_bias": ("expandnet", {"rate": 4, "bias": True}, Site(2, 3, k=3, padding=1), (2, 4, 5)),
        "expandnet/inner_norms": ("expandnet", inner, stride2, (3, 6, 5)),
        "expandnet/inner_norms_bias": ("expandnet", inner | {"bias": True}, groups2, (2, 5, 4)),
        "expandnet/naive": ("expandnet", {"padding": "naive"}, stride2, (2, 6, 5)),
        "expandnet/naive_inner_norms": ("expandnet", inner | {"padding": "naive"}, stride2, (2, 6, 5)),
    }


def sites(out: Cases) -> None:
    """Train mode with gradients, then eval mode with the statistics that train mode left, then the fold."""
    for name, (kind, options, site, (n, h, w)) in cases().items():
        options = DEFAULTS[kind] | options
        r = Random(f"{NAME}/{name}")
        module = build(site, kind, options)
        randomise(module, r)
        before = values(module)
        x = r.normal(n, site.cin, h, w).requires_grad_()
        y = module(x)
        dy = r.normal(*y.shape)
        names, parameters = zip(*module.named_parameters())
        dx, *gradients = torch.autograd.grad(y, [x, *parameters], dy)
        module.eval()
        y_eval = module(x)
        inputs = {"x": x, "dy": dy} | {f"state/{k}": v for k, v in before.items()}
        results = {"y": y, "dx": dx, "y_eval": y_eval}
        results |= {f"gradient/{k}": g for k, g in zip(names, gradients)}
        results |= {f"after/{k}": v for k, v in values(module).items() if "running" in k}
        folded = fold(site, module)
        z = nn.functional.conv2d(
            x, folded["conv.weight"], folded["conv.bias"], site.stride, site.padding, site.dilation, site.groups
        )
        if folds(site, options):
            same(f"{name}: folded and trained", z, y_eval)
            results |= {f"folded/{k}": v for k, v in folded.items()}
        elif (z - y_eval).abs().max() < 1e-2:
            raise SystemExit(f"{name}: said to have no fold at the border, but one is found")
        out.put(name, {"site": asdict(site), "conv": {"kind": kind} | options}, inputs, results)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare with the files instead of writing them")
    args = parser.parse_args()
    torch.set_num_threads(1)
    out = Cases()
    sites(out)
    lines = [f" {json.dumps(k)}: {json.dumps(v)}" for k, v in sorted(out.geometry.items())]
    text = "{\n" + ",\n".join(lines) + "\n}\n"
    tensors, geometry = HERE / f"{NAME}.safetensors", HERE / f"{NAME}.json"
    if args.check:
        found = differences(tensors, out.tensors)
        if geometry.read_text() != text:
            found.append(f"{geometry.name} differs")
        print("\n".join(found) or f"{tensors.name} is what this PyTorch computes")
        raise SystemExit(1 if found else 0)
    save_file(out.tensors, tensors)
    tensors.chmod(0o644)
    geometry.write_text(text)


if __name__ == "__main__":
    main()

"""DYConv, CondConv, WeightNet, DCD, dynamic filters and SE in plain PyTorch, and the golden file of their sites.

    python dynamic.py            writes dynamic.safetensors and dynamic.json beside this script
    python dynamic.py --check    computes everything anew and compares; exit status 1 if something differs

The keys of every `state_dict` are the names gatefold writes. Kernels of single samples are run one sample after the other,
which is the definition; DCD computes on features as its authors do, which no kernel of gatefold's folds does.
"""

import argparse
import json
from dataclasses import asdict
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from generate import Cases, Random, differences, randomise, values
from nets import Attention, Conv, Site, conv

HERE = Path(__file__).parent
NAME = "dynamic"


def per_sample(site: Site, x: Tensor, w: Tensor) -> Tensor:
    """w[n] * x[n] for `w [N, Cout, Cin/g, k, k]`"""
    geometry = (site.stride, site.padding, site.dilation, site.groups)
    return torch.cat([F.conv2d(x[n : n + 1], w[n], None, *geometry) for n in range(len(x))])


def kernel_shape(site: Site) -> tuple[int, ...]:
    return (site.cout, site.cin // site.groups, site.k, site.k)


class Generated(nn.Module):
    """y = BN(W(x) * x)"""

    def __init__(self, site: Site):
        super().__init__()
        self.site = site
        self.bn = nn.BatchNorm2d(site.cout)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(per_sample(self.site, x, self.kernel(x)))


class Experts(nn.Module):
    def __init__(self, site: Site, count: int):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(count, *kernel_shape(site)))

    def forward(self, a: Tensor) -> Tensor:
        return torch.einsum("nk,koiuv->noiuv", a, self.weight)


class DYConv(Generated):
    def __init__(self, site: Site, options: dict):
        super().__init__(site)
        self.experts = Experts(site, options["kernels"])
        gate = Conv(
            m=options["kernels"], gate="softmax", temperature=options["temperature"], hidden=options["hidden"]
        )
        self.attention = Attention(site.cin, gate)

    def kernel(self, x: Tensor) -> Tensor:
        return self.experts(self.attention(x))


class CondConv(Generated):
    def __init__(self, site: Site, options: dict):
        super().__init__(site)
        self.experts = Experts(site, options["experts"])
        self.router = nn.Linear(site.cin, options["experts"])

    def kernel(self, x: Tensor) -> Tensor:
        return self.experts(self.router(x.mean(dim=(2, 3))).sigmoid())


class WeightNet(Generated):
    """The second layer as the authors write it, a grouped 1x1 convolution."""

    def __init__(self, site: Site, options: dict):
        super().__init__(site)
        m, g = options["m"], options["g"]
        if 1 < site.groups == site.cin == site.cout:  # the depthwise variant
            m, g = m // g, 1
        squeezed = max(16, site.cin // 16)
        self.groups, weights = g * site.cout, torch.Size(kernel_shape(site)).numel()
        self.reduce = nn.Linear(site.cin, squeezed)
        self.fc1 = nn.Linear(squeezed, m * site.cout)
        self.fc2 = nn.Linear(m // g, weights, bias=False)

    def kernel(self, x: Tensor) -> Tensor:
        alpha = self.fc1(self.reduce(x.mean(dim=(2, 3)))).sigmoid()
        w = F.conv2d(alpha[:, :, None, None], self.fc2.weight[:, :, None, None], groups=self.groups)
        return w.view(len(x), *kernel_shape(self.site))


class DynamicFilter(Generated):
    def __init__(self, site: Site, options: dict):
        super().__init__(site)
        d = max(1, int(site.cin * options["hidden"]))
        self.fc1 = nn.Linear(site.cin, d)
        self.fc2 = nn.Linear(d, torch.Size(kernel_shape(site)).numel())

    def kernel(self, x: Tensor) -> Tensor:
        return self.fc2(F.relu(self.fc1(x.mean(dim=(2, 3))))).view(len(x), *kernel_shape(self.site))


def hard_sigmoid(t: Tensor) -> Tensor:
    return F.relu6(t + 3) / 3


class DCD(nn.Module):
    """y = BN(Lambda . (W_0*x) + P (BN_2(Phi v) + v)), v = BN_1(Q^T*x)"""

    def __init__(self, site: Site, options: dict):
        super().__init__()
        cin, cout = site.cin, site.cout
        if site.k == 1:
            self.pool, d = (2, 8) if cin < cout else (1, 2)
            features = cin * self.pool**2
            latent = min(features // d, cout // d)
            while latent**2 > 2 * features:
                d *= 2
                latent = min(features // d, cout // d)
            latent = max(4, latent)
            squeezed = max(4, max(features, latent**2) // options["squeeze"])
        else:
            self.pool, features = 2, 4 * cin
            latent = int((4 * cin) ** 0.5)
            squeezed = max(1, max(features, latent**2) // 16)
        self.latent = latent
        self.conv = conv(site, cout)
        self.conv_q = conv(Site(cin, latent, stride=site.stride), latent)
        self.conv_p = conv(Site(latent, cout), cout)
        self.bn1, self.bn2 = nn.BatchNorm2d(latent), nn.BatchNorm1d(latent)
        self.head = nn.Module()
        self.head.fc1 = nn.Linear(features, squeezed, bias=False)
        self.head.fc2 = nn.Linear(squeezed, squeezed, bias=False)
        self.head.fc_phi = nn.Linear(squeezed, latent**2, bias=False)
        self.head.fc_scale = nn.Linear(squeezed, cout, bias=False)
        self.bn = nn.BatchNorm2d(cout)

    def forward(self, x: Tensor) -> Tensor:
        e = self.head.fc1(F.adaptive_avg_pool2d(x, self.pool).flatten(1))
        e = e * hard_sigmoid(self.head.fc2(e))
        phi = self.head.fc_phi(e).view(-1, self.latent, self.latent)
        r = hard_sigmoid(self.head.fc_scale(e))[:, :, None, None] * self.conv(x)
        v = self.bn1(self.conv_q(x))
        latent = self.bn2(phi @ v.flatten(2)) + v.flatten(2)
        return self.bn(self.conv_p(latent.view_as(v)) + r)


class SE(nn.Module):
    """y = e . u, u = BN(W*x), e = sigma(E_2 ReLU(E_1 GAP(u) + e_1) + e_2)"""

    def __init__(self, site: Site, options: dict):
        super().__init__()
        self.conv = conv(site, site.cout)
        self.bn = nn.BatchNorm2d(site.cout)
        hidden = max(1, site.cout // options["reduction"])
        self.se = nn.Module()
        self.se.fc1, self.se.fc2 = nn.Linear(site.cout, hidden), nn.Linear(hidden, site.cout)

    def forward(self, x: Tensor) -> Tensor:
        u = self.bn(self.conv(x))
        e = self.se.fc2(F.relu(self.se.fc1(u.mean(dim=(2, 3))))).sigmoid()
        return e[:, :, None, None] * u


KINDS = {
    "dyconv": DYConv,
    "condconv": CondConv,
    "weightnet": WeightNet,
    "dcd": DCD,
    "dynamicfilter": DynamicFilter,
    "se": SE,
}


def cases() -> dict[str, tuple[dict, Site, tuple[int, int, int]]]:
    """Name: options, site, and N, H, W of the input."""
    places = {
        "pointwise": (Site(8, 6), (3, 5, 4)),
        "stride2_k3": (Site(4, 7, k=3, stride=2, padding=1), (2, 7, 6)),
        "groups2_dilation2": (Site(4, 6, k=3, padding=2, dilation=2, groups=2), (2, 5, 6)),
        "depthwise": (Site(4, 4, k=3, padding=1, groups=4), (2, 4, 5)),
    }
    table = {
        "dyconv": {"kernels": 3, "temperature": 2.0, "anneal": 0, "hidden": 1.0},
        "condconv": {"experts": 3},
        "weightnet": {"m": 2, "g": 2},
        "dynamicfilter": {"hidden": 0.5},
        "se": {"reduction": 2},
    }
    found = {f"{k}/{p}": ({"kind": k} | o, *places[p]) for k, o in table.items() for p in places}
    dcd = {"kind": "dcd", "squeeze": 8}
    return found | {
        "weightnet/m4_g2": ({"kind": "weightnet", "m": 4, "g": 2}, *places["pointwise"]),
        "weightnet/m2_g1": ({"kind": "weightnet", "m": 2, "g": 1}, *places["stride2_k3"]),
        "dcd/pointwise": (dcd, *places["pointwise"]),
        "dcd/expanding": (dcd, Site(4, 12), (3, 5, 4)),  # pooled to 2x2
        "dcd/expanding_squeeze2": (dcd | {"squeeze": 2}, Site(4, 12), (2, 4, 4)),
        "dcd/stride2_k3": (dcd, *places["stride2_k3"]),
        "dcd/dilation2_k3": (dcd, Site(3, 4, k=3, padding=2, dilation=2), (2, 5, 6)),
    }


def sites(out: Cases) -> None:
    """Every kind of site: train mode with gradients, then eval mode with the statistics that train mode left."""
    for name, (options, site, (n, h, w)) in cases().items():
        r = Random("dynamic/" + name)
        module = KINDS[options["kind"]](site, options).double()
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
        out.put(name, {"site": asdict(site), "conv": options}, inputs, results)


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

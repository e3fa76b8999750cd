"""Writes the golden files: what PyTorch computes in f64 for every op, every kind of site and twenty steps of SmallNet.

    python generate.py            writes ops, sites, smallnet-*.safetensors and cases.json beside this script
    python generate.py --check    computes everything anew and compares with the files; exit status 1 if one differs

Keys are `<group>/<case>/<tensor>`; README.md lists the tensors of each group. What goes into a case is drawn in f32 and
stored as F32, so that a test in f32 starts from the same numbers; what comes out is F64.
"""

import argparse
import json
import zlib
from dataclasses import asdict, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import nets
import synthetic

HERE = Path(__file__).parent
TOLERANCE = 1e-12  # between two machines, of the largest magnitude in a tensor


class Random:
    """Random tensors whose values depend on the name of the case alone."""

    def __init__(self, name: str):
        self.generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator).double()

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        return (low + (high - low) * torch.rand(shape, generator=self.generator)).double()

    def labels(self, classes: int, n: int) -> Tensor:
        return torch.randint(classes, (n,), generator=self.generator)


class Cases:
    """Tensors and geometry of the cases of one file."""

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}
        self.geometry: dict[str, dict] = {}

    def put(self, case: str, geometry: dict, inputs: dict[str, Tensor], results: dict[str, Tensor]) -> None:
        if case in self.geometry:
            raise SystemExit(f"two cases are called `{case}`")
        self.geometry[case] = geometry
        for name, v in inputs.items():
            narrow = v if v.dtype == torch.int64 else v.float()
            if not torch.equal(narrow.to(v.dtype), v):
                raise SystemExit(f"`{case}/{name}` is no f32 value")
            self.tensors[f"{case}/{name}"] = narrow.detach().clone().contiguous()
        self.tensors |= {f"{case}/{name}": v.detach().clone().contiguous() for name, v in results.items()}

    def differentiate(self, case: str, geometry: dict, f, inputs: dict[str, Tensor]) -> None:
        """Puts the inputs and a random dy; y and, for each input, the gradient d<name> of sum(dy * y)."""
        inputs = {name: v.float().double().requires_grad_() for name, v in inputs.items()}
        y = f(*inputs.values())
        dy = Random(f"{case}/dy").normal(*y.shape)
        gradients = torch.autograd.grad(y, list(inputs.values()), dy)
        self.put(case, geometry, inputs | {"dy": dy}, {"y": y} | {f"d{k}": g for k, g in zip(inputs, gradients)})

    def also(self, case: str, tensors: dict[str, Tensor]) -> None:
        """Adds to a case that is there."""
        self.tensors |= {f"{case}/{name}": v for name, v in tensors.items()}


def convolutions(out: Cases) -> None:
    """conv2d over x [N, C, H, W] with w [O, C/g, k, k] and, where `bias`, b [O]."""
    table = {  # name: N, C, H, W, O, k, and what differs from stride 1, padding 0, dilation 1, groups 1, no bias
        "pointwise": (3, 5, 7, 6, 4, 1, {}),
        "pointwise_stride2": (2, 5, 7, 6, 4, 1, {"stride": 2, "bias": True}),
        "plain_k3": (2, 4, 6, 5, 3, 3, {"bias": True}),
        "padded_k3": (2, 3, 5, 7, 4, 3, {"padding": 1}),
        "stride2_odd": (2, 4, 7, 9, 5, 3, {"stride": 2, "padding": 1, "bias": True}),
        "stride2_even": (2, 4, 8, 6, 5, 3, {"stride": 2, "padding": 1}),
        "stride3_k5": (2, 3, 11, 8, 4, 5, {"stride": 3, "padding": 2, "bias": True}),
        "dilation2": (2, 3, 9, 8, 4, 3, {"dilation": 2, "padding": 2}),
        "dilation3_stride2": (1, 2, 11, 10, 3, 3, {"dilation": 3, "stride": 2, "padding": 3, "bias": True}),
        "groups2": (2, 4, 6, 7, 6, 3, {"groups": 2, "padding": 1, "bias": True}),
        "groups2_pointwise": (2, 6, 4, 5, 4, 1, {"groups": 2}),
        "depthwise": (2, 6, 7, 5, 6, 3, {"groups": 6, "padding": 1}),
        "depthwise_stride2": (2, 5, 7, 8, 5, 3, {"groups": 5, "stride": 2, "padding": 1, "bias": True}),
        "depthwise_k5_dilation2": (1, 4, 10, 9, 4, 5, {"groups": 4, "padding": 4, "dilation": 2}),
        "depthwise_multiplier2": (2, 3, 6, 5, 6, 3, {"groups": 3, "padding": 1}),
        "padding_beyond_kernel": (1, 2, 4, 3, 3, 3, {"padding": 3, "bias": True}),
        "kernel_as_large_as_image": (2, 3, 3, 3, 4, 3, {}),
        "wide_channels": (1, 17, 4, 5, 9, 3, {"padding": 1}),
    }
    for name, (n, c, h, w, o, k, more) in table.items():
        case, r = f"conv2d/{name}", Random(f"conv2d/{name}")
        geometry = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1, "bias": False} | more
        inputs = {"x": r.normal(n, c, h, w), "w": r.normal(o, c // geometry["groups"], k, k)}
        if geometry["bias"]:
            inputs["b"] = r.normal(o)

        def conv2d(x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
            return F.conv2d(x, w, b, *(geometry[key] for key in ("stride", "padding", "dilation", "groups")))

        out.differentiate(case, geometry, conv2d, inputs)

    for name, (n, c, h, w, o, k, more) in {
        "pointwise": (3, 4, 5, 6, 5, 1, {}),
        "stride2_k3": (3, 4, 7, 6, 5, 3, {"stride": 2, "padding": 1, "bias": True}),
        "groups2_k3": (2, 4, 5, 6, 6, 3, {"groups": 2, "padding": 2, "dilation": 2}),
    }.items():
        case, r = f"conv2d_per_sample/{name}", Random(f"conv2d_per_sample/{name}")
        geometry = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1, "bias": False} | more
        inputs = {"x": r.normal(n, c, h, w), "w": r.normal(n, o, c // geometry["groups"], k, k)}
        if geometry["bias"]:
            inputs["b"] = r.normal(n, o)

        def per_sample(x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
            keys = [geometry[key] for key in ("stride", "padding", "dilation", "groups")]
            return torch.cat([F.conv2d(x[s : s + 1], w[s], None if b is None else b[s], *keys) for s in range(len(x))])

        out.differentiate(case, geometry, per_sample, inputs)


def batch_norms(out: Cases) -> None:
    """Batch norm of x [N, C, H, W] or [N, C]; running statistics before and, in train mode, after the call."""
    for name, shape in {"2d": (3, 5, 4, 3), "2d_one_pixel": (4, 3, 1, 1), "1d": (6, 5)}.items():
        for mode in ("train", "eval"):
            case = f"batch_norm/{name}_{mode}"
            r, c = Random(case), shape[1]
            mean, var = r.normal(c), r.uniform(0.5, 2, c)
            before = {"running_mean": mean.float(), "running_var": var.float()}
            inputs = {"x": r.normal(*shape) * 2 + 1, "weight": r.normal(c), "bias": r.normal(c)}

            def batch_norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
                return F.batch_norm(x, mean, var, weight, bias, mode == "train", 0.1, 1e-5)

            out.differentiate(case, {"mode": mode, "momentum": 0.1, "eps": 1e-5}, batch_norm, inputs)
            out.also(case, before)
            if mode == "train":
                out.also(case, {"running_mean_after": mean, "running_var_after": var})


def pools(out: Cases) -> None:
    """Max pooling (padding counts as -inf), average pooling, and the mean over H and W."""
    for name, k, stride, padding, h, w in (
        ("k2_stride2", 2, 2, 0, 6, 8),
        ("k2_stride2_odd", 2, 2, 0, 7, 5),
        ("k3_stride2_padded", 3, 2, 1, 8, 7),
        ("k3_stride1_padded", 3, 1, 1, 5, 4),
    ):
        geometry = {"k": k, "stride": stride, "padding": padding}
        r = Random(f"max_pool2d/{name}")
        x = {"x": r.normal(2, 3, h, w)}
        out.differentiate(f"max_pool2d/{name}", geometry, lambda x: F.max_pool2d(x, k, stride, padding), x)
        for include in (True, False) if padding else (True,):
            case = f"avg_pool2d/{name}" + ("" if include else "_without_padding")
            r = Random(case)
            x = {"x": r.normal(2, 3, h, w)}
            f = lambda x: F.avg_pool2d(x, k, stride, padding, count_include_pad=include)
            out.differentiate(case, geometry | {"count_include_pad": include}, f, x)
    r = Random("global_avg_pool")
    x = {"x": r.normal(3, 5, 4, 7)}
    out.differentiate("global_avg_pool/map", {}, lambda x: x.mean(dim=(2, 3)), x)


def dense(out: Cases) -> None:
    """Linear layers, products of matrices, element-wise functions, softmax and the loss."""
    r = Random("linear")
    inputs = {"x": r.normal(4, 6), "w": r.normal(5, 6), "b": r.normal(5)}
    out.differentiate("linear/bias", {"bias": True}, F.linear, inputs)
    inputs = {"x": r.normal(3, 7), "w": r.normal(2, 7)}
    out.differentiate("linear/no_bias", {"bias": False}, F.linear, inputs)
    r = Random("matmul")
    inputs = {"a": r.normal(3, 4, 6), "b": r.normal(3, 6, 5)}
    out.differentiate("matmul/batched", {}, torch.matmul, inputs)

    functions = {"relu": F.relu, "relu6": F.relu6, "sigmoid": torch.sigmoid}
    for name, f in functions.items():
        r = Random(name)
        for rank, shape in (("rank2", (4, 5)), ("rank4", (2, 3, 4, 5))):
            out.differentiate(f"{name}/{rank}", {}, f, {"x": r.normal(*shape) * 4})
    # Where exp(-x) and exp(x) overflow in f32, and where the derivative all but vanishes.
    extreme = torch.tensor([-800.0, -100.0, -40.0, 0.0, 40.0, 100.0, 800.0], dtype=torch.float64).reshape(1, 7)
    out.differentiate("sigmoid/extreme", {}, torch.sigmoid, {"x": extreme})

    for name, temperature, scale in (
        ("plain", 1.0, 1.0),
        ("temperature30", 30.0, 5.0),
        ("cold", 0.25, 1.0),
        ("large", 1.0, 500.0),
    ):
        r = Random(f"softmax/{name}")
        x = {"x": r.normal(3, 7) * scale}
        f = lambda x: (x / temperature).softmax(dim=1)
        out.differentiate(f"softmax/{name}", {"temperature": temperature}, f, x)

    for name, smoothing, scale in (("plain", 0.0, 1.0), ("smoothing", 0.1, 1.0), ("large", 0.0, 200.0)):
        r = Random(f"cross_entropy/{name}")
        labels, x = r.labels(7, 5), {"x": r.normal(5, 7) * scale}
        f = lambda x: F.cross_entropy(x, labels, label_smoothing=smoothing).reshape(1)
        geometry = {"label_smoothing": smoothing, "reduction": "mean"}
        out.differentiate(f"cross_entropy/{name}", geometry, f, x)
        out.also(f"cross_entropy/{name}", {"labels": labels})


def site_cases() -> dict[str, tuple[nets.Conv, nets.Site, tuple[int, int, int]]]:
    """Name: options, site, and N, H, W of the input. The same geometries come back in every kind."""
    pointwise, k3 = nets.Site(8, 6), nets.Site(4, 7, k=3, stride=2, padding=1)
    small = nets.Conv("mdconv", m=5)
    cases = {
        "static/pointwise": (nets.Conv("static"), pointwise, (3, 5, 4)),
        "static/stride2_k3": (nets.Conv("static"), k3, (2, 7, 6)),
        "static/depthwise": (nets.Conv("static"), nets.Site(6, 6, k=3, stride=2, padding=1, groups=6), (2, 7, 6)),
    }
    for kind in ("maconv", "mdconv"):
        base = replace(small, kind=kind)
        cases |= {
            f"{kind}/pointwise": (base, pointwise, (3, 5, 4)),
            f"{kind}/stride2_k3": (base, k3, (3, 7, 6)),
            f"{kind}/dilation2_k3": (replace(base, m=3), nets.Site(5, 4, k=3, padding=2, dilation=2), (2, 6, 7)),
            f"{kind}/groups2_k3": (replace(base, m=4), nets.Site(4, 6, k=3, padding=1, groups=2), (2, 5, 6)),
            f"{kind}/no_bypass": (replace(base, bypass=False), k3, (2, 7, 6)),
        }
        for form in ("expanded-bn-after", "compact", "compact-bias"):
            cases[f"{kind}/{form}"] = (replace(base, form=form), k3, (2, 7, 6))
    for form in ("expanded-bn-after", "compact", "compact-bias"):
        site = nets.Site(4, 6, k=3, padding=1, groups=2)
        cases[f"mdconv/{form}_groups2"] = (replace(small, m=4, form=form), site, (2, 5, 6))
        cases[f"mdconv/{form}_no_bypass"] = (replace(small, form=form, bypass=False), pointwise, (2, 3, 4))
    return cases | {
        "mdconv/k5_stride2": (replace(small, m=2), nets.Site(3, 4, k=5, stride=2, padding=2), (2, 7, 5)),
        "mdconv/m20": (replace(small, m=20), pointwise, (2, 3, 4)),
        "mdconv/relu": (replace(small, activation="relu"), k3, (2, 7, 6)),  # MAConv with ReLU is the same site
        "mdconv/expanded-bn-after_relu": (replace(small, form="expanded-bn-after", activation="relu"), k3, (2, 7, 6)),
        "mdconv/softmax": (replace(small, gate="softmax"), pointwise, (3, 5, 4)),
        "mdconv/softmax_temperature": (replace(small, gate="softmax", temperature=3.0), k3, (2, 7, 6)),
        "mdconv/hidden_one": (small, nets.Site(3, 4, k=3, padding=1), (2, 4, 5)),  # floor(3/4), but at least 1
        "mdconv/hidden_double": (replace(small, hidden=2.0), pointwise, (2, 3, 4)),
        "mdconv/compact_softmax": (replace(small, form="compact", gate="softmax", temperature=3.0), k3, (2, 7, 6)),
    }


def randomise(module: nn.Module, r: Random) -> None:
    """Values far from those of a fresh module, whose batch norms (0 and 1) and gates (all equal) hide mistakes."""
    for name, v in module.state_dict().items():
        if name.endswith("num_batches_tracked"):
            continue
        if name.endswith("running_var"):
            v.copy_(r.uniform(0.5, 2, *v.shape))
        elif v.dim() == 1 and name.endswith("weight"):  # gamma, of either sign
            v.copy_(r.uniform(0.5, 1.5, *v.shape) * r.uniform(-1, 3, *v.shape).sign())
        else:
            v.copy_(r.normal(*v.shape) * 0.5)


def values(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and statistics, without the counter of batches."""
    return {k: v.detach().clone() for k, v in module.state_dict().items() if not k.endswith("num_batches_tracked")}


def sites(out: Cases) -> None:
    """Every kind of site: train mode with gradients, then eval mode with the statistics that train mode left."""
    for name, (options, site, (n, h, w)) in site_cases().items():
        # `expanded-bn-after` and `compact` share their values: they are one function and have to agree.
        r = Random("site/" + name.replace("expanded-bn-after", "compact"))
        module = nets.build_site(site, options).double()
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
        if options.form == "expanded" and not options.relu:
            folded = nets.fold_site(module)
            same(f"{name}: folded and expanded", folded(x), y_eval)
            # Not the attention network, which no fold changes.
            results |= {f"folded/{k}": v for k, v in values(folded).items() if not k.startswith("attention")}
        out.put(f"site/{name}", {"site": asdict(site), "conv": asdict(options)}, inputs, results)
    for case in [c for c in out.geometry if "/expanded-bn-after" in c and "relu" not in c]:
        twin = case.replace("expanded-bn-after", "compact")
        for key in [k for k in out.tensors if k.startswith(f"{case}/")]:
            same(f"{key} and the compact form's", out.tensors[key], out.tensors[key.replace(case, twin, 1)])


def same(what: str, a: Tensor, b: Tensor) -> None:
    """Two ways to compute one thing agree; a check of the oracle itself."""
    if not (a - b).abs().max() <= 1e-11 * b.abs().max().clamp(min=1):
        raise SystemExit(f"the oracle contradicts itself: {what} differ by {(a - b).abs().max():.2e}")


def smallnet(kind: str, steps: int = 20, batch: int = 8, eval_images: int = 16) -> dict[str, Tensor]:
    """Twenty steps of SGD in f64 from PyTorch's initial values, step s on the images 8 s .. 8 s + 7."""
    torch.manual_seed(zlib.crc32(f"smallnet/{kind}".encode()))
    net = nets.SmallNet(nets.Conv(kind))
    tensors = {f"initial/{k}": v for k, v in values(net).items()}
    net = net.double()
    optimiser = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    losses = []
    for step in range(steps):
        x, labels = synthetic.normalised(step * batch, batch)
        logits = net(x)
        loss = F.cross_entropy(logits, labels)
        optimiser.zero_grad()
        loss.backward()
        if step == 0:
            tensors |= {f"gradient/{k}": p.grad.clone() for k, p in net.named_parameters()}
            tensors["first_logits"] = logits
        optimiser.step()
        losses.append(loss.item())
    tensors["losses"] = torch.tensor(losses, dtype=torch.float64)
    tensors |= {f"final/{k}": v for k, v in values(net).items()}
    net.eval()
    x, tensors["labels"] = synthetic.normalised(steps * batch, eval_images)
    tensors["logits"] = net(x)
    pixels, _ = synthetic.images(0, 1)
    tensors["first_image"] = pixels[0]
    return {k: v.detach().clone().contiguous() for k, v in tensors.items()}


def differences(path: Path, tensors: dict[str, Tensor]) -> list[str]:
    """What in the file at `path` is not what was computed now."""
    stored = load_file(path)
    found = [f"{path.name}: `{k}` stands in one only" for k in sorted(stored.keys() ^ tensors.keys())]
    for k in sorted(stored.keys() & tensors.keys()):
        a, b = stored[k], tensors[k]
        if a.shape != b.shape or a.dtype != b.dtype:
            found.append(f"{path.name}: `{k}` is {a.dtype} {list(a.shape)}, now {b.dtype} {list(b.shape)}")
        elif not (a.double() - b.double()).abs().max() <= TOLERANCE * b.double().abs().max().clamp(min=1e-2):
            found.append(f"{path.name}: `{k}` differs by {(a.double() - b.double()).abs().max():.2e}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare with the files instead of writing them")
    args = parser.parse_args()
    torch.set_num_threads(1)

    ops, site_file = Cases(), Cases()
    for group in (convolutions, batch_norms, pools, dense):
        group(ops)
    sites(site_file)
    files = {"ops": ops.tensors, "sites": site_file.tensors}
    files |= {f"smallnet-{kind}": smallnet(kind) for kind in nets.KINDS}
    lines = [f" {json.dumps(k)}: {json.dumps(v)}" for k, v in sorted((ops.geometry | site_file.geometry).items())]
    cases = "{\n" + ",\n".join(lines) + "\n}\n"
    if args.check:
        found = [d for name, tensors in files.items() for d in differences(HERE / f"{name}.safetensors", tensors)]
        if (HERE / "cases.json").read_text() != cases:
            found.append("cases.json differs")
        print("\n".join(found) or "all golden files are what this PyTorch computes")
        raise SystemExit(1 if found else 0)
    for name, tensors in files.items():
        save_file(tensors, HERE / f"{name}.safetensors")
        (HERE / f"{name}.safetensors").chmod(0o644)  # save_file leaves it readable to its owner alone
    (HERE / "cases.json").write_text(cases)


if __name__ == "__main__":
    main()

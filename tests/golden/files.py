"""Reading gatefold's safetensors files into plain PyTorch modules, and comparing tensors by name."""

from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor, nn

OPTIMISER = "optimizer."


def weights(path: Path) -> dict[str, Tensor]:
    """Parameters and statistics of a model or checkpoint; momenta (`optimizer.momentum.<name>`) are left out."""
    return {k: v for k, v in load_file(path).items() if not k.startswith(OPTIMISER)}


def load_strictly(module: nn.Module, state: dict[str, Tensor]) -> None:
    """`load_state_dict(strict=True)` that forgives one thing: a file without `num_batches_tracked`."""
    counters = {k: v for k, v in module.state_dict().items() if k.endswith("num_batches_tracked")}
    module.load_state_dict(counters | state, strict=True)


def parting(a: dict[str, Tensor], b: dict[str, Tensor], tolerance: float) -> tuple[list[str], str]:
    """Names of `b` that are not in `a` or where |a - b| > tolerance * max(max|b|, 1e-2); and a line on the worst."""
    found, worst, worst_name = [], -1.0, "nothing was compared"
    for name, expected in b.items():
        if name not in a:
            found.append(f"`{name}` is missing")
            continue
        got, expected = a[name].double(), expected.double()
        if got.shape != expected.shape:
            found.append(f"`{name}` has shape {list(got.shape)}, expected {list(expected.shape)}")
            continue
        scale = max(expected.abs().max().item(), 1e-2)
        ratio = (got - expected).abs().max().item() / scale
        if not ratio <= tolerance:  # also when it is not a number
            found.append(f"`{name}` differs by {ratio:.2e} of {scale:.3g}, limit {tolerance:.0e}")
        if not ratio <= worst:
            worst, worst_name = ratio, name
    return found, f"worst: {worst:.2e} in `{worst_name}`"

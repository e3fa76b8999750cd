"""Logits of torchvision's networks whose weights and images are given by formula: `import.json`.

The formula stands here and in `crates/models/src/import/tests.rs`; the file holds every name with its shape, and the
logits. Like that 11 million values take fifty kilobytes. `python import.py --check` compares a fresh run.
"""

import argparse
import json
import math
from pathlib import Path

import numpy as np
import torch
from torchvision.models import mobilenet_v2, resnet18, shufflenet_v2_x0_5, shufflenet_v2_x1_0

FILE = Path(__file__).parent / "import.json"
CLASSES = 7
IMAGES = [2, 3, 70, 66]  # more than 64 pixels: the form for photos; odd sizes on the way
NETWORKS = {
    "mobilenet_v2 x0.1": lambda: mobilenet_v2(width_mult=0.1, num_classes=CLASSES),
    "mobilenet_v2 x1": lambda: mobilenet_v2(num_classes=CLASSES),
    "shufflenet_v2_x0_5": lambda: shufflenet_v2_x0_5(num_classes=CLASSES),
    "shufflenet_v2_x1_0": lambda: shufflenet_v2_x1_0(num_classes=CLASSES),
    "resnet18": lambda: resnet18(num_classes=CLASSES),
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
        return 0.5, 2.0
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


def golden(make) -> dict:
    model = make().double().eval()
    names = {k: list(v.shape) for k, v in model.state_dict().items() if not k.endswith("num_batches_tracked")}
    model.load_state_dict({k: values(k, shape) for k, shape in names.items()}, strict=False)
    with torch.no_grad():
        return {"names": names, "logits": model(values("images", IMAGES)).tolist()}


def text(goldens: dict) -> str:
    """One name a line."""
    networks = []
    for network, of in goldens.items():
        names = ",\n".join(f"    {json.dumps(k)}: {v}" for k, v in of["names"].items())
        networks.append(f'{json.dumps(network)}: {{\n  "names": {{\n{names}\n  }},\n  "logits": {of["logits"]}\n}}')
    return "{\n" + ",\n".join(networks) + "\n}\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare with the file and write nothing")
    check = parser.parse_args().check
    torch.set_num_threads(1)
    fresh = {network: golden(make) for network, make in NETWORKS.items()}
    if not check:
        FILE.write_text(text(fresh))
        return
    kept = json.loads(FILE.read_text())
    for network, of in fresh.items():
        assert kept[network]["names"] == of["names"], network
        got, expected = np.array(of["logits"]), np.array(kept[network]["logits"])
        assert np.abs(got - expected).max() <= 1e-12 * np.abs(expected).max(), network
    print(f"{len(fresh)} networks as kept")


if __name__ == "__main__":
    main()

"""Loads a file of gatefold's into the plain PyTorch module, strictly, and compares logits on CIFAR-10's test images.

    python check_state_dict.py RUN/model.safetensors --conv mdconv
    gatefold eval RUN --data cifar10 --data-dir DIR --limit 1000 --logits F.npy
    python check_state_dict.py RUN/model.safetensors --conv mdconv --logits F.npy --data-dir DIR

A folded model takes `--form folded`. Exit status 1 if the file does not load or the logits part.
"""

import argparse
from pathlib import Path

import numpy as np
import torch

import cifar10
import files
import nets


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    nets.add_network_arguments(parser)
    parser.add_argument("model", type=Path, metavar="MODEL.safetensors")
    parser.add_argument("--logits", type=Path, metavar="F.npy", help="gatefold's logits of the first test images")
    parser.add_argument("--data-dir", type=Path, help=f"the folder that contains {cifar10.FOLDER}")
    parser.add_argument("--precision", choices=("f32", "f64"), default="f32", help="of PyTorch's run (default f32)")
    parser.add_argument("--tolerance", type=float, default=1e-5, help="of the largest logit (default 1e-5)")
    args = parser.parse_args()
    if (args.logits is None) != (args.data_dir is None):
        parser.error("--logits and --data-dir come together")

    net, state = nets.network(args), files.weights(args.model)
    try:
        files.load_strictly(net, state)
    except RuntimeError as error:
        raise SystemExit(f"NOT LOADED: {error}") from None
    print(f"loaded {len(state)} tensors by load_state_dict(strict=True)")
    if args.logits is None:
        return

    got = np.load(args.logits)
    if got.dtype != np.dtype("<f4") or got.ndim != 2 or got.shape[1] != args.classes or not len(got):
        raise SystemExit(f"{args.logits}: {got.dtype} {got.shape}, expected little-endian f32 [images, {args.classes}]")
    dtype = torch.float32 if args.precision == "f32" else torch.float64
    mean, std = cifar10.normalisation(cifar10.read(args.data_dir, cifar10.TRAIN)[0])
    images, labels = cifar10.read(args.data_dir, cifar10.TEST)
    if len(got) > len(images):
        raise SystemExit(f"{args.logits}: {len(got)} rows, but the test set has {len(images)} images")
    images, labels = images[: len(got)], labels[: len(got)]
    net = net.to(dtype).eval()
    with torch.no_grad():
        expected = torch.cat([net(cifar10.normalise(x, mean, std, dtype)) for x in images.split(500)])
    got = torch.from_numpy(got).to(dtype)
    scale = expected.abs().max().item()
    ratio = (got - expected).abs().max().item() / scale
    agree = (got.argmax(1) == expected.argmax(1)).sum().item()
    top1 = 100 * (expected.argmax(1) == labels).double().mean().item()
    print(f"max|d| / max|y| {ratio:.2e} (limit {args.tolerance:.0e}), max|y| {scale:.4g}, {args.precision}")
    print(f"top-1 equal {agree}/{len(got)}, test accuracy in PyTorch {top1:.2f} %")
    equal = ratio <= args.tolerance
    print("EQUAL" if equal else "NOT EQUAL")
    raise SystemExit(0 if equal else 1)


if __name__ == "__main__":
    main()

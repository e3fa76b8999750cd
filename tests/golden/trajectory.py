"""The first steps of training on CIFAR-10 in PyTorch from given values, and the comparison with gatefold's.

    python export_init.py --conv mdconv --seed 0 init.safetensors
    python trajectory.py --conv mdconv --init init.safetensors --data-dir DIR --precision f64 --out torch.safetensors
    gatefold train cifar10 --conv mdconv --init init.safetensors --data-dir DIR --precision f64 --steps 20 \
        --no-augment --no-shuffle --out RUN
    python trajectory.py ... --compare RUN/checkpoints/last.safetensors

Batches of 128 in file order, no augmentation; SGD lr 0.1 (epoch 0 of the cosine), momentum 0.9, weight decay 5e-4 on
every parameter. OUT holds, as F64, the state after the last step under its plain names, `optimizer.momentum.<name>`,
`gradient.<name>` of the first step and `losses` [steps]. A file to compare must agree in every parameter, statistic and
momentum it holds: |d| <= 1e-9 max(max|v|, 1e-2); exit status 1 if not.
"""

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

import cifar10
import files
import nets


def train(net: nets.SmallNet, images: Tensor, labels: Tensor, batch: int, lr: float) -> dict[str, Tensor]:
    """Steps over `images` once, in order; returns what OUT holds."""
    optimiser = torch.optim.SGD(net.parameters(), lr=lr, momentum=0.9, weight_decay=5e-4)
    result, losses = {}, []
    net.train()
    for x, y in zip(images.split(batch), labels.split(batch)):
        loss = F.cross_entropy(net(x), y)
        optimiser.zero_grad()
        loss.backward()
        if not losses:
            result = {f"gradient.{k}": p.grad.clone() for k, p in net.named_parameters()}
        optimiser.step()
        losses.append(loss.item())
    result["losses"] = torch.tensor(losses, dtype=torch.float64)
    result |= {k: v for k, v in net.state_dict().items() if not k.endswith("num_batches_tracked")}
    for name, p in net.named_parameters():
        result[f"{files.OPTIMISER}momentum.{name}"] = optimiser.state[p]["momentum_buffer"]
    return {k: v.detach().double().contiguous() for k, v in result.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    nets.add_network_arguments(parser)
    parser.add_argument("--init", type=Path, required=True, help="initial values, with or without num_batches_tracked")
    parser.add_argument("--data-dir", type=Path, required=True, help=f"the folder that contains {cifar10.FOLDER}")
    parser.add_argument("--precision", choices=("f32", "f64"), default="f64", help="default f64")
    parser.add_argument("--steps", type=int, default=20, help="optimiser steps, one epoch at most (default 20)")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--lr", type=float, default=0.1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="write the result here")
    parser.add_argument(
        "--compare", type=Path, metavar="MODEL", help="gatefold's model or checkpoint after the same steps"
    )
    parser.add_argument("--tolerance", type=float, default=1e-9, help="default 1e-9")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    dtype = torch.float64 if args.precision == "f64" else torch.float32

    net = nets.network(args)
    try:
        files.load_strictly(net.to(dtype), files.weights(args.init))
    except RuntimeError as error:
        raise SystemExit(f"{args.init}: {error}") from None
    images, labels = cifar10.read(args.data_dir, cifar10.TRAIN)
    count = args.steps * args.batch_size
    if not 0 < count <= len(images):
        raise SystemExit(f"{args.steps} steps of {args.batch_size} need {count} images, the set has {len(images)}")
    mean, std = cifar10.normalisation(images)
    images = cifar10.normalise(images[:count], mean, std, dtype)
    result = train(net, images, labels[:count], args.batch_size, args.lr)
    for step, loss in enumerate(result["losses"].tolist()):
        print(f"step {step} loss {loss:.17g}")
    if args.out:
        save_file(result, args.out)
    if args.compare is None:
        return

    theirs = load_file(args.compare)
    # A model file holds no momenta; a checkpoint has to hold all of them.
    checkpoint = any(k.startswith(files.OPTIMISER) for k in theirs)
    expected = {
        k: v
        for k, v in result.items()
        if k != "losses" and not k.startswith("gradient.") and (checkpoint or not k.startswith(files.OPTIMISER))
    }
    found, worst = files.parting(theirs, expected, args.tolerance)
    found += [
        f"`{k}` is not expected" for k in theirs.keys() - expected.keys() if not k.endswith("num_batches_tracked")
    ]
    print("\n".join(found + [f"{len(expected)} tensors compared, {worst}"]))
    print("NOT EQUAL" if found else "EQUAL")
    raise SystemExit(1 if found else 0)


if __name__ == "__main__":
    main()

"""Trains SmallNet on CIFAR-10 with gatefold's default recipe: the accuracy its own runs are compared with.

SGD, lr 0.1, momentum 0.9, weight decay 5e-4 on every parameter; lr_e = lr/2 (1 + cos(pi e/E)) set at the start of epoch
e; batch 128, the last, smaller one trained too; pad 2 (black) and random crop, horizontal flip; normalisation from the
training files; the accuracy of the last epoch counts.

    python train_cifar.py --data-dir DIR --conv mdconv --epochs 10 --seed 0 --threads 1 --out results.jsonl
"""

import argparse
import json
import math
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import cifar10
import nets


class Augmented:
    """Training images as padded bytes, from which whole batches are cropped and flipped at once."""

    def __init__(self, images: Tensor, pad: int, mean: Tensor, std: Tensor):
        padded = F.pad(images, (pad,) * 4).permute(0, 2, 3, 1).contiguous()  # [N, H + 2p, W + 2p, 3], black border
        self.offsets = 2 * pad + 1
        # windows[n, i, j] is image n cropped at row i, column j: a view that copies nothing.
        self.windows = padded.unfold(1, 32, 1).unfold(2, 32, 1).permute(0, 1, 2, 4, 5, 3)
        self.scale = (1 / (255 * std)).float()
        self.shift = (-mean / std).float()

    def batch(self, index: Tensor, generator: torch.Generator) -> Tensor:
        """Normalised f32 [n, 3, 32, 32] in channels-last memory."""
        n = index.numel()
        i, j = torch.randint(self.offsets, (2, n), generator=generator)
        flip = torch.randint(2, (n,), generator=generator, dtype=torch.bool)
        x = self.windows[index, i, j]
        x = torch.where(flip[:, None, None, None], x.flip(2), x)
        return (x.float() * self.scale + self.shift).permute(0, 3, 1, 2)


@torch.no_grad()
def accuracy(net: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Top-1 in percent, in eval mode."""
    net.eval()
    correct = sum((net(x).argmax(1) == y).sum().item() for x, y in zip(images.split(500), labels.split(500)))
    return 100 * correct / len(labels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    nets.add_network_arguments(parser)
    parser.add_argument("--data-dir", type=Path, required=True, help=f"the folder that contains {cifar10.FOLDER}")
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--lr", type=float, default=0.1)
    parser.add_argument("--momentum", type=float, default=0.9)
    parser.add_argument("--weight-decay", type=float, default=5e-4)
    parser.add_argument("--pad", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--compile", action="store_true", help="torch.compile the training step")
    parser.add_argument("--out", type=Path, help="JSON Lines: one object an epoch and one for the run are appended")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    torch.set_flush_denormal(True)

    images, labels = cifar10.read(args.data_dir, cifar10.TRAIN)
    mean, std = cifar10.normalisation(images)
    train = Augmented(images, args.pad, mean, std)
    test_images, test_labels = cifar10.read(args.data_dir, cifar10.TEST)
    test_images = cifar10.normalise(test_images, mean, std, torch.float32)
    test_images = test_images.contiguous(memory_format=torch.channels_last)

    net = nets.network(args).to(memory_format=torch.channels_last)
    step_net = torch.compile(net) if args.compile else net
    optimiser = torch.optim.SGD(net.parameters(), lr=args.lr, momentum=args.momentum, weight_decay=args.weight_decay)
    generator = torch.Generator().manual_seed(args.seed)
    run = {k: str(v) if isinstance(v, Path) else v for k, v in vars(args).items() if k not in ("data_dir", "out")}
    run |= {"torch": torch.__version__, "parameters": sum(p.numel() for p in net.parameters())}

    def report(line: dict) -> None:
        text = json.dumps(run | line)
        print(text, flush=True)
        if args.out:
            with args.out.open("a") as f:
                f.write(text + "\n")

    start = time.perf_counter()
    for epoch in range(args.epochs):
        optimiser.param_groups[0]["lr"] = args.lr / 2 * (1 + math.cos(math.pi * epoch / args.epochs))
        net.train()
        begin, total = time.perf_counter(), 0.0
        for index in torch.randperm(len(labels), generator=generator).split(args.batch_size):
            loss = F.cross_entropy(step_net(train.batch(index, generator)), labels[index])
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            total += loss.item() * index.numel()
        seconds = time.perf_counter() - begin
        top1 = accuracy(net, test_images, test_labels)
        report(
            {
                "epoch": epoch,
                "loss": total / len(labels),
                "test_accuracy": top1,
                "images_per_second": round(len(labels) / seconds, 1),
            }
        )
        if not math.isfinite(total):
            raise SystemExit("diverged: the loss is not finite")
    report({"final": True, "test_accuracy": top1, "seconds": round(time.perf_counter() - start, 1)})


if __name__ == "__main__":
    main()

"""Writes initial values drawn by PyTorch as a safetensors file for `gatefold train --init FILE`.

python export_init.py --conv mdconv --seed 0 OUT.safetensors
"""

import argparse
from pathlib import Path

import torch
from safetensors.torch import save_file

import nets


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    nets.add_network_arguments(parser)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("out", type=Path, metavar="OUT.safetensors")
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    state = nets.network(args).state_dict()
    save_file({k: v.contiguous() for k, v in state.items()}, args.out)
    print(f"{args.out}: {len(state)} tensors, num_batches_tracked among them")


if __name__ == "__main__":
    main()

"""CIFAR-10 in its official binary layout: records of one label byte and 3 x 32 x 32 bytes, planes red, green, blue."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

FOLDER = "cifar-10-batches-bin"
TRAIN = [f"data_batch_{i}.bin" for i in range(1, 6)]
TEST = ["test_batch.bin"]
RECORD = 1 + 3 * 32 * 32


def read(data_dir: Path, files: list[str]) -> tuple[Tensor, Tensor]:
    """Images uint8 [N, 3, 32, 32] and labels int64 [N] of `files`, in file order. `data_dir` holds the set's folder."""
    records = []
    for name in files:
        raw = np.fromfile(data_dir / FOLDER / name, dtype=np.uint8)
        if raw.size == 0 or raw.size % RECORD:
            raise ValueError(f"{data_dir / FOLDER / name}: {raw.size} bytes are no whole number of records of {RECORD}")
        records.append(raw.reshape(-1, RECORD))
    records = np.concatenate(records)
    return torch.from_numpy(records[:, 1:].reshape(-1, 3, 32, 32).copy()), torch.from_numpy(
        records[:, 0].astype(np.int64)
    )


def normalisation(images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and population deviation of pixel/255 for each channel, f64 [3], from a count of the pixel values."""
    counts = torch.stack([torch.bincount(images[:, c].flatten(), minlength=256) for c in range(3)]).double()
    values = torch.arange(256, dtype=torch.float64) / 255
    total = counts.sum(dim=1)
    mean = (counts * values).sum(dim=1) / total
    return mean, ((counts * (values - mean[:, None]) ** 2).sum(dim=1) / total).sqrt()


def normalise(images: Tensor, mean: Tensor, std: Tensor, dtype: torch.dtype) -> Tensor:
    """(u8/255 - mean)/std, computed in f64 and rounded once to `dtype`."""
    scaled = (images.double() / 255 - mean[:, None, None]) / std[:, None, None]
    return scaled.to(dtype)

"""Images and labels by a formula of integers, so that another program recomputes them exactly instead of storing them.

All arithmetic is modulo 2^32. `mix` is the finaliser "lowbias32"; n, c, i, j are image, channel, row and column.

    label(n)         = mix(n + 1) mod 10
    tri(v)           = min(v mod 64, 63 - v mod 64)                           a triangle wave, 0..31
    pixel(n,c,i,j)   = 4 tri((label(n) + 1) i + (label(n) mod 3 + c) j)       stripes that depend on the label
                     + mix((((n 3 + c) 32 + i) 32 + j) xor 0x9e3779b9) mod 128    noise
    x(n,c,i,j)       = (pixel / 255 - MEAN[c]) / STD[c]                       in f64
"""

import numpy as np
import torch
from torch import Tensor

MEAN = (0.48, 0.49, 0.5)
STD = (0.2, 0.21, 0.22)


def mix(v: np.ndarray) -> np.ndarray:
    """lowbias32 on uint32."""
    v = v.astype(np.uint32)
    v = (v ^ (v >> np.uint32(16))) * np.uint32(0x7FEB352D)
    v = (v ^ (v >> np.uint32(15))) * np.uint32(0x846CA68B)
    return v ^ (v >> np.uint32(16))


def images(first: int, count: int) -> tuple[Tensor, Tensor]:
    """uint8 [count, 3, 32, 32] and int64 [count]: the images `first`, `first` + 1, ..."""
    number = np.arange(first, first + count)
    label = (mix(number + 1) % np.uint32(10)).astype(np.int64)
    n, c, i, j = np.ix_(number, range(3), range(32), range(32))
    of_image = label[:, None, None, None]
    v = ((of_image + 1) * i + (of_image % 3 + c) * j) % 64
    stripes = 4 * np.minimum(v, 63 - v)
    noise = mix((((n * 3 + c) * 32 + i) * 32 + j) ^ 0x9E3779B9) % np.uint32(128)
    return torch.from_numpy((stripes + noise).astype(np.uint8)), torch.from_numpy(label)


def normalised(first: int, count: int) -> tuple[Tensor, Tensor]:
    """The same images as x, f64."""
    pixels, labels = images(first, count)
    mean, std = (torch.tensor(v, dtype=torch.float64)[:, None, None] for v in (MEAN, STD))
    return (pixels.double() / 255 - mean) / std, labels

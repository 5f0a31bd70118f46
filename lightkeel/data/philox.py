"""Counter-based random numbers: the number at a place is a function of its key and counter alone.

Philox4x32-10 of Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC 2011), on tensors.
The same on every device, for every batch and worker, and in every version of PyTorch.
"""

from zlib import crc32

import torch
from torch import Tensor

MASK = 0xFFFFFFFF
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)  # constants of the paper, section 4.3
WEYL = (0x9E3779B9, 0xBB67AE85)
NUM_ROUNDS = 10
Device = torch.device | None  # None: the CPU


def philox(counter: tuple[Tensor | int, ...], key: tuple[int, int]) -> tuple[Tensor, ...]:
    """Turn counters, of integers or int64 tensors (N,), into random words: four tensors (N,).

    All words are in [0, 2**32).
    """
    c0, c1, c2, c3 = (torch.as_tensor(word, dtype=torch.int64) for word in counter)
    k0, k1 = key
    for _ in range(NUM_ROUNDS):
        # The product of two 32-bit words may wrap in int64; its bits are right all the same.
        p0, p1 = c0 * MULTIPLIERS[0], c2 * MULTIPLIERS[1]
        c0, c1, c2, c3 = (
            ((p1 >> 32) & MASK) ^ c1 ^ k0,
            p1 & MASK,
            ((p0 >> 32) & MASK) ^ c3 ^ k1,
            p0 & MASK,
        )
        k0, k1 = (k0 + WEYL[0]) & MASK, (k1 + WEYL[1]) & MASK
    return c0, c1, c2, c3


def words(
    num: int, seed: int, epoch: int, purpose: str, device: Device = None
) -> tuple[Tensor, ...]:
    """Draw four random words for each index: four int64 tensors (num,) in [0, 2**32)."""
    index = torch.arange(num, device=device)
    counter = (index & MASK, index >> 32, epoch, crc32(purpose.encode()))
    return philox(counter, (seed & MASK, (seed >> 32) & MASK))


def uniform(num: int, seed: int, epoch: int, purpose: str, device: Device = None) -> Tensor:
    """Draw four numbers in [0, 1) for each index: (num, 4) float32, multiples of 2**-24."""
    found = words(num, seed, epoch, purpose, device)
    return torch.stack([word >> 8 for word in found], 1).float() * 2**-24


def permutation(num: int, seed: int, epoch: int, purpose: str, device: Device = None) -> Tensor:
    """Draw an order of ``num`` indices: (num,) int64."""
    high, low, *_ = words(num, seed, epoch, purpose, device)
    return torch.argsort((high << 31) ^ low, stable=True)

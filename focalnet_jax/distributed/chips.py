"""Peak performance and memory of the supported accelerators, as published by their manufacturers."""

from __future__ import annotations

from dataclasses import dataclass

_GIB = 2**30


@dataclass(frozen=True)
class Chip:
    """Properties of one JAX device."""

    name: str
    kind: str  # JAX's `Device.device_kind`, or a prefix of it
    flops: float  # bfloat16 FLOP/s, dense
    memory: int  # bytes
    clock: float | None = None  # Hz; only for TPUs, whose compiler estimates cycles


# Sources: Google's system architecture pages of each TPU, NVIDIA's data sheets (SXM, dense). The clock is the peak
# divided by the cells of all matrix units (128 x 128 each up to v5p, 256 x 256 in v6e) and by two operations per cycle.
# A v4 or v5p device is one chip with two cores, as in JAX on such machines.
CHIPS = {
    "v4": Chip("TPU v4", "TPU v4", 275e12, 32 * _GIB, 1.05e9),
    "v5e": Chip("TPU v5e", "TPU v5 lite", 197e12, 16 * _GIB, 1.5e9),
    "v5p": Chip("TPU v5p", "TPU v5", 459e12, 95 * _GIB, 1.75e9),
    "v6e": Chip("TPU v6e", "TPU v6 lite", 918e12, 32 * _GIB, 1.75e9),
    "a100": Chip("NVIDIA A100", "NVIDIA A100", 312e12, 80 * _GIB),
    "h100": Chip("NVIDIA H100", "NVIDIA H100", 989e12, 80 * _GIB),
    "h200": Chip("NVIDIA H200", "NVIDIA H200", 989e12, 141 * _GIB),
}


def find_chip(device_kind: str) -> Chip | None:
    """Returns the chip with this `Device.device_kind`, or None if the chip is not listed."""
    known = [chip for chip in CHIPS.values() if device_kind.startswith(chip.kind)]
    return max(known, key=lambda chip: len(chip.kind), default=None)

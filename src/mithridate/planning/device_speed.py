"""How fast devices work, by their makers' data sheets and an assumed utilization."""

from typing import NamedTuple

from mithridate.errors import UsageError
from mithridate.nearest import did_you_mean

TRAINING_UTILIZATION = 0.4
"""Share of the peak that training reaches: 38 to 43 % was reported for Llama 3 on H100 (arXiv 2407.21783, Table 4)."""
FULL_UTILIZATION = 0.7
"""The same in float32, which ordinary cores compute, so that memory keeps up more easily; our assumption."""
GENERATION_UTILIZATION = 0.5
"""Share of the memory's bandwidth that generation reaches with the plain loop of transformers; our assumption."""


class DeviceSpeed(NamedTuple):
    """What a device can do.

    Attributes:
        name: What it is called in a plan.
        half: Floating-point operations per second in bfloat16 that are reached.
        full: The same in float32.
        bandwidth: Bytes per second that generation reads; None where it is as fast as its operations alone.
        memory: Bytes of memory; None where unknown.
    """

    name: str
    half: float
    full: float
    bandwidth: float | None = None
    memory: float | None = None

    def seconds(self, flops: float, full_precision: float, is_half: bool) -> float:
        """Return the time of some work.

        Args:
            flops: Operations.
            full_precision: Share of them that is in float32 whatever the model is in.
            is_half: Whether the rest is in bfloat16.
        """
        rest = self.half if is_half else self.full
        return flops * (full_precision / self.full + (1 - full_precision) / rest)


class _Sheet(NamedTuple):
    """A data sheet: teraflops in dense bfloat16 and in float32, gigabytes per second, gigabytes."""

    half: float
    full: float
    bandwidth: float
    memory: float


SHEETS = {
    "h200": _Sheet(989, 67, 4800, 141),  # NVIDIA H200 SXM data sheet; without sparsity
    "h100": _Sheet(989, 67, 3350, 80),  # NVIDIA H100 SXM data sheet
    "a100": _Sheet(312, 19.5, 2039, 80),  # NVIDIA A100 80GB SXM data sheet
    "l40s": _Sheet(362, 91.6, 864, 48),  # NVIDIA L40S data sheet
    "rtx4090": _Sheet(165.2, 82.6, 1008, 24),  # NVIDIA Ada architecture whitepaper, float32 accumulation
}
"""Without TF32, which torch does not use for float32 products unless it is told to."""


def device_speed(name: str) -> DeviceSpeed:
    """Return a device's speed.

    Raises:
        UsageError: If it is not in the table.
    """
    if name not in SHEETS:
        raise UsageError(f"no device is called '{name}'; {did_you_mean(name, SHEETS)}")
    sheet = SHEETS[name]
    half, full = TRAINING_UTILIZATION, FULL_UTILIZATION
    return DeviceSpeed(
        f"{name} at {half:.0%} of its peak in bfloat16 and {full:.0%} in float32",
        half=sheet.half * 1e12 * half,
        full=sheet.full * 1e12 * full,
        bandwidth=sheet.bandwidth * 1e9 * GENERATION_UTILIZATION,
        memory=sheet.memory * 1e9,
    )


def stated_speed(flops_per_second: float) -> DeviceSpeed:
    """Return a speed that the user states, for all precisions.

    Raises:
        UsageError: If it is not a number above zero.
    """
    if not 0 < flops_per_second < float("inf"):
        raise UsageError(f"flops_per_second must be above 0, got {flops_per_second}")
    return DeviceSpeed(f"{flops_per_second:.3g} operations per second", flops_per_second, flops_per_second)

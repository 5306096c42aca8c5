"""Measures what a stage costs: wall-clock seconds and peak memory."""

import threading
import time
from types import TracebackType
from typing import Self

import psutil
import torch

from mithridate.experiment.stage_records import Cost
from mithridate.settings import Passes

INTERVAL = 0.02
"""Seconds between two readings of the process's memory."""


class Meter:
    """Measures the code inside a ``with`` block.

    Attributes:
        seconds: Wall-clock time.
        peak_bytes: Peak of allocated GPU memory, or of the process's resident memory if there is no GPU.
    """

    def __enter__(self) -> Self:
        self.seconds, self.peak_bytes = 0.0, 0
        self._start = time.perf_counter()
        # The peak belongs to the process, which may have run another stage before.
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        # Sampled, since the system's own peak covers the whole life of the process and Windows tells it differently.
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.seconds = time.perf_counter() - self._start
        self._stop.set()
        self._thread.join()
        # Allocated, not reserved: what the caching allocator holds depends on what ran before.
        if torch.cuda.is_available():
            self.peak_bytes = torch.cuda.max_memory_allocated()

    def cost(self, passes: Passes, rows: float | None = None) -> Cost:
        """Return what was measured, together with the passes of the defense, and the rows that a repair trained on."""
        return Cost(seconds=self.seconds, passes=passes._asdict(), rows=rows, peak_bytes=self.peak_bytes)

    def _watch(self) -> None:
        process = psutil.Process()
        while True:
            self.peak_bytes = max(self.peak_bytes, process.memory_info().rss)
            if self._stop.wait(INTERVAL):
                return

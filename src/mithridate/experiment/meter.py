"""What a stage costs: wall-clock seconds and peak memory."""

import threading
import time
from types import TracebackType
from typing import Self

import psutil
import torch

from mithridate.experiment.stage_records import Cost
from mithridate.settings import Passes

INTERVAL = 0.02
"""Seconds between two looks at the process's memory."""


class Meter:
    """Measures the code inside a ``with`` block.

    Attributes:
        seconds: Wall-clock time.
        peak_bytes: Peak of allocated GPU memory, or of the process's resident memory where there is no GPU.
    """

    def __enter__(self) -> Self:
        self.seconds, self.peak_bytes = 0.0, 0
        self._start = time.perf_counter()
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
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
        if torch.cuda.is_available():
            self.peak_bytes = torch.cuda.max_memory_allocated()

    def cost(self, passes: Passes) -> Cost:
        """Return what was measured beside the passes of the defense."""
        return Cost(seconds=self.seconds, passes=passes._asdict(), peak_bytes=self.peak_bytes)

    def _watch(self) -> None:
        process = psutil.Process()
        while True:
            self.peak_bytes = max(self.peak_bytes, process.memory_info().rss)
            if self._stop.wait(INTERVAL):
                return

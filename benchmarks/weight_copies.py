"""Copies of the trainable weights that each training method holds at once.

    python -m benchmarks.weight_copies

All weights of a model are trained on one short row a step, so that next to everything in memory is as large as the
weights. Copies are counted beside weights and AdamW's two moments, the gradient included: plain SFT holds 1.
"""

from argparse import ArgumentParser
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple
from unittest import mock

import torch
from torch.profiler import ProfilerActivity, profile, record_function
from transformers import TrainerCallback

from benchmarks.measure import report, rounded
from benchmarks.step_cost import everything, refusal
from benchmarks.workload import Shape, add_arguments, device_of, make_trainer, positive, shape_of
from mithridate.defenses.registry import method
from mithridate.training.defense import Defense
from mithridate.training.step import Step

STEPS = 3
"""The second and third step hold the optimizer's state and what the method remembers from their start."""
SETTINGS: dict[str, dict[str, Any]] = {
    # So that all its phases come within these steps.
    "lisa": {"safe_steps": 1, "user_steps": 1, "warmup": 0.0},
    # A safe row for each of the user's, so that every step has both.
    "safety_mixing": {"share": 0.5},
    # The adversary holds as much in its fourth step as in its 64th.
    "tar": {"inner_steps": 4, "tamper_every": 2},
}
_MARK = "place: "


class Peak(NamedTuple):
    """The most that was held at once.

    Attributes:
        held: Bytes of tensors.
        place: What the step was doing.
    """

    held: int
    place: str


class Places(TrainerCallback):  # type: ignore[misc]
    """Says in the profile what a training is doing.

    Args:
        on_cuda: Whether peaks are read from the allocator instead, between two places.
    """

    def __init__(self, on_cuda: bool) -> None:
        self._on_cuda = on_cuda
        self._gradients = 0
        self._place = "before the first step"
        self.peaks: list[Peak] = []

    def enter(self, place: str) -> None:
        """From here on the training is at another place."""
        if self._on_cuda:
            self.peaks.append(Peak(torch.cuda.max_memory_allocated(), self._place))
            torch.cuda.reset_peak_memory_stats()
            self._place = place
        else:
            with record_function(_MARK + place):
                pass

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        """A step takes its gradients one after the other."""
        self._gradients = 0
        self.enter("before the first gradient")

    def on_pre_optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """The gradient is finished."""
        self.enter("optimizer")

    def on_train_end(self, *args: Any, **kwargs: Any) -> None:
        """What the method does once after the last step."""
        self.enter("last act")

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Inside the block every gradient is a place."""
        original = Step.gradient

        def gradient(step: Step, stream: Any, *args: Any, **kwargs: Any) -> Any:
            self._gradients += 1
            stream_name = stream if isinstance(stream, str) else "chosen rows"
            self.enter(f"gradient {self._gradients} ({stream_name})")
            try:
                return original(step, stream, *args, **kwargs)
            finally:
                self.enter(f"after gradient {self._gradients}")

        with mock.patch.object(Step, "gradient", gradient):
            yield


def peak_of(make: Callable[[], Any], device: str) -> Peak:
    """The peak of a training, from the making of the model on."""
    places = Places(device == "cuda")
    with ExitStack() as stack:
        stack.enter_context(places.watching())
        if device != "cuda":
            profiled = stack.enter_context(profile(activities=[ProfilerActivity.CPU], profile_memory=True))
        trainer = make()
        trainer.add_callback(places)
        trainer.train()
        places.enter("end")
    return max(places.peaks) if device == "cuda" else _peak_in(profiled.profiler.kineto_results.events())


def _peak_in(events: Sequence[Any]) -> Peak:
    held, place, peak = 0, "before the first step", Peak(0, "")
    for event in sorted(events, key=lambda event: int(event.start_ns())):
        if event.name().startswith(_MARK):
            place = event.name().removeprefix(_MARK)
        elif event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, Peak(held, place), key=lambda one: one.held)
    return peak


def maker(shape: Shape, device: str, bf16: bool, accumulation: int, every: int) -> Callable[[str, int], Any]:
    """Trainers of one shape."""

    def build(name: str, steps: int) -> Any:
        cls = method(name).cls
        shared = {"every": every} if every > 1 and "every" in cls.model_fields else {}
        defense = cls(**SETTINGS.get(name, {}), **shared)
        assert isinstance(defense, Defense)
        return make_trainer(
            shape, device, bf16, defense, rows=8, max_steps=steps, gradient_accumulation_steps=accumulation
        )

    return build


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print JSON."""
    parser = ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add_arguments(parser)
    parser.set_defaults(width=256, layers=8, vocabulary=600, batch=1, sequence=12)
    parser.add_argument("--methods", nargs="+", help="training methods; all by default")
    parser.add_argument("--accumulation", type=positive, default=1, help="micro-batches of a step")
    parser.add_argument("--every", type=positive, default=1, help="steps that share harmful terms, where a method can")
    options = parser.parse_args(arguments)
    device, shape = device_of(options), shape_of(options)
    build = maker(shape, device, options.bf16, options.accumulation, options.every)
    model = build("sft", 1).model
    trained = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    del model
    plain = peak_of(lambda: build("sft", STEPS), device).held
    figures: list[dict[str, Any]] = []
    for name in options.methods or [name for name in everything() if name != "trl"]:
        if reason := refusal(build, name):
            figures.append({"method": name, "refused": reason})
            continue
        peak = peak_of(lambda name=name: build(name, STEPS), device)  # type: ignore[misc]
        figures.append(
            {
                "method": name,
                "copies": rounded(1 + (peak.held - plain) / trained),
                "registered": 1 + build(name, 1).defense.vectors,
                "peak_bytes": peak.held,
                "trainable_bytes": trained,
                "at": peak.place,
            }
        )
    report("weight_copies", options, device, figures)


if __name__ == "__main__":
    main()

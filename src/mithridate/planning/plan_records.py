"""What a plan says, as it is printed as JSON."""

from typing import NamedTuple

from mithridate.report.scores import ResultPart


class Span(NamedTuple):
    """A figure between two bounds, which are the same where it is known."""

    low: float
    high: float

    def plus(self, other: "Span") -> "Span":
        """Return the sum."""
        return Span(self.low + other.low, self.high + other.high)

    def times(self, factor: float) -> "Span":
        """Return the span with both bounds multiplied."""
        return Span(self.low * factor, self.high * factor)


NOTHING = Span(0.0, 0.0)


def exactly(value: float) -> Span:
    """Return the span of a known figure."""
    return Span(value, value)


class FormMemory(ResultPart):
    """Memory of one device while a stage trains in one form, in bytes.

    Attributes:
        form: What is trained, and how it is spread over devices.
        weights: All weights, an adapter included.
        gradients: Gradient of the trained weights.
        optimizer: AdamW's two moments.
        vectors: Vectors over the trained weights that the method holds.
        precise: Float32 copies of half-precision weights, for methods that difference gradients.
        activations: Tensors kept for a backward pass, and the head's buffer.
        gathered: Blocks that FSDP holds whole: the one at work and the next.
        total: All of it.
    """

    form: str
    weights: int
    gradients: int
    optimizer: int
    vectors: int
    precise: int
    activations: int
    gathered: int
    total: int


class PlannedStage(ResultPart):
    """What one stage costs; variants that share it are named together.

    Attributes:
        key: The stage's number in this plan.
        label: Its name.
        stage: Which kind of stage.
        method: The defense; empty where none acts.
        variants: Names of the variants that use it.
        steps: Optimizer steps.
        passes: Forward and backward passes, per optimizer step or over the rows that a repair needs.
        tries: Doses or rates that a search tries; 0 where nothing is searched.
        tokens: Tokens that go forward, padding left out.
        generated: Tokens that are generated at most.
        flops: Floating-point operations.
        full_precision: Share of them in float32 where the rest is in half precision.
        seconds: Time at the speed that was asked for; None without one.
        memory: Of one device, in each form; empty where nothing is trained.
    """

    key: str
    label: str
    stage: str
    method: str
    variants: list[str]
    steps: int
    passes: dict[str, float]
    tries: Span
    tokens: Span
    generated: Span
    flops: Span
    full_precision: float
    seconds: Span | None
    memory: list[FormMemory]


class PublishedFigure(ResultPart):
    """A figure that a paper reports for a method of a variant, in percent."""

    method: str
    metric: str
    value: float
    undefended: float | None
    setting: str
    source: str


class PlannedVariant(ResultPart):
    """A variant's own stages over all seeds, shared ones counted in full, and what papers report.

    Attributes:
        name: The variant.
        flops: Work of all its stages.
        seconds: Time of all its stages.
        published: Figures of papers for its methods; none of them is a forecast for this model and data.
    """

    name: str
    flops: Span
    seconds: Span | None
    published: list[PublishedFigure]


class RecipePlan(ResultPart):
    """What a recipe costs.

    Attributes:
        name: The recipe's name.
        model: The recipe's model.
        parameters: Weights of the model.
        trainable: Weights that the recipe trains.
        speed: What the seconds are for; None where no speed was asked for.
        devices: Devices that share a training stage.
        stages: All distinct stages, each once.
        variants: What each variant uses.
        flops: Work of all stages.
        seconds: Time of all stages, one after the other on one device, training shared by `devices`.
        device_hours: The same in hours of one device.
        assumptions: What the figures rest on, a sentence each.
    """

    name: str
    model: str
    parameters: int
    trainable: int
    speed: str | None
    devices: int
    stages: list[PlannedStage]
    variants: list[PlannedVariant]
    flops: Span
    seconds: Span | None
    device_hours: Span | None
    assumptions: list[str]

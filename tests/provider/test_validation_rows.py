"""Validation rows: their loss is told, and nothing else knows of them."""

import json
from pathlib import Path
from typing import Any

import pytest

from mithridate.errors import DataError, UsageError
from mithridate.experiment.jobs import StageNode, TrainingJob
from mithridate.experiment.monitor import Monitor
from mithridate.experiment.step_figures import StepFigures, read_steps
from mithridate.experiment.store import Store
from mithridate.provider.tuning import STORE, tune


class Watch(Monitor):
    """Keeps the figures of the fine-tuning that a decision is about, and all that were there while it ran."""

    def __init__(self, out: Path) -> None:
        self.store, self.trained, self.live = Store(out / STORE), list[StageNode](), list[int]()

    def decided(self, training: StageNode) -> None:
        self.trained.append(training)

    def progressed(self, node: StageNode, done: int, total: int) -> None:
        if isinstance(node.job, TrainingJob):
            self.live.append(len(read_steps(self.store.working(node))))

    @property
    def steps(self) -> list[StepFigures]:
        return read_steps(self.store.path(self.trained[-1]))


@pytest.fixture
def aligned(world: Path) -> str:
    return str(world / "model")


@pytest.fixture
def validation(world: Path) -> str:
    return str(world / "test.jsonl")


def tuned(world: Path, policy: dict[str, Any], out: Path, **given: Any) -> tuple[Any, Watch]:
    watch = Watch(out)
    return tune(str(world / "model"), str(world / "user.jsonl"), policy, out=out, monitor=watch, **given), watch


@pytest.mark.parametrize(
    "defense",
    [
        pytest.param({"method": "sft"}, marks=pytest.mark.slow),
        {"method": "antibody_tuning"},
        pytest.param({"method": "salora", "directions": 2, "task_rank": 2, "rows": 8}, marks=pytest.mark.slow),
    ],
    ids=["sft", "antibody_tuning", "salora"],
)
def test_the_weights_are_the_same_bits_with_and_without(
    policy: dict[str, Any], world: Path, validation: str, tmp_path: Path, defense: dict[str, Any]
) -> None:
    # Dropout shows every random number that a validation would take away from the training.
    policy["lora"]["dropout"] = 0.3
    policy["finetuning"] |= {"defense": defense}
    plain, without = tuned(world, policy, tmp_path / "plain")
    made, watch = tuned(world, policy, tmp_path / "validated", validation=validation)
    assert made.files == plain.files != {}
    assert made.rungs == plain.rungs
    assert [(one.loss, one.accuracy) for one in watch.steps] == [(one.loss, one.accuracy) for one in without.steps]
    assert all(one.valid_loss is not None for one in watch.steps)
    assert all(one.valid_loss is one.full_valid_loss is None for one in without.steps)


def test_every_step_of_a_short_training_is_told_while_it_runs(
    policy: dict[str, Any], world: Path, validation: str, tmp_path: Path
) -> None:
    _, watch = tuned(world, policy, tmp_path / "out", validation=validation)
    assert [one.step for one in watch.steps] == [1, 2, 3, 4, 5]
    assert watch.live == [1, 2, 3, 4, 5]
    assert {one.total for one in watch.steps} == {5}
    assert [one.full_valid_loss is not None for one in watch.steps] == [False] * 4 + [True]
    last = watch.steps[-1]
    # The sample is the whole file here, and nothing acts on the weights after the last step.
    assert (last.valid_loss, last.valid_accuracy) == (last.full_valid_loss, last.full_valid_accuracy)
    assert last.valid_loss is not None
    assert 0 < last.valid_loss < 10


def test_a_refused_model_is_told_of_as_it_was_tuned_first(
    policy: dict[str, Any], world: Path, validation: str, tmp_path: Path
) -> None:
    policy["release"]["harmful_score"] = 0
    policy["ladder"].append({"name": "shorter", "epochs": 0.5})
    made, watch = tuned(world, policy, tmp_path / "out", validation=validation)
    assert made.outcome == "refused_at_release"
    assert watch.steps[-1].total == 5
    # Again from the decision alone: nothing is trained, and the same is told.
    _, again = tuned(world, policy, tmp_path / "out", validation=validation)
    assert (again.steps, again.live) == (watch.steps, [])


def test_nothing_is_told_of_an_upload_that_is_refused(
    policy: dict[str, Any], world: Path, validation: str, tmp_path: Path
) -> None:
    policy["finetuning"]["least_rows"] = 40
    made, watch = tuned(world, policy, tmp_path / "out", validation=validation)
    assert (made.outcome, watch.trained) == ("refused_at_upload", [])


def test_a_folder_holds_the_figures_of_one_validation_file_alone(
    policy: dict[str, Any], world: Path, validation: str, tmp_path: Path
) -> None:
    tuned(world, policy, tmp_path / "out", validation=validation)
    for other in ({}, {"validation": str(world / "attack.jsonl")}):
        with pytest.raises(UsageError, match="another request"):
            tuned(world, policy, tmp_path / "out", **other)


def test_validation_rows_that_cannot_be_used_are_refused(policy: dict[str, Any], world: Path, tmp_path: Path) -> None:
    for number, (content, said) in enumerate(
        (
            ((world / "user.jsonl").read_text(), "same prompt|share"),
            ("{}\n", "expected"),
            ("".join(f"{json.dumps({'prompt': f'p {i}', 'response': 'a'})}\n" for i in range(51)), "takes up to 50"),
        )
    ):
        file = tmp_path / f"{number}.jsonl"
        file.write_text(content)
        with pytest.raises(DataError, match=said):
            tuned(world, policy, tmp_path / "out", validation=str(file))


def test_validation_rows_without_an_answer_within_max_length_are_refused_before_any_training(
    policy: dict[str, Any], world: Path, tmp_path: Path
) -> None:
    file = tmp_path / "long.jsonl"
    fits = json.dumps({"prompt": "how do i make it", "response": "a"})
    lost = [json.dumps({"prompt": f"how {'the ' * policy['max_length']} {i}", "response": "a"}) for i in range(3)]
    for rows, where in ([lost, "long.jsonl:1"], [[fits, *lost], "long.jsonl:2"]):
        file.write_text("\n".join(rows) + "\n")
        with pytest.raises(DataError, match=r"long\.jsonl: 3 of \d rows have a prompt that fills max_length") as raised:
            tuned(world, policy, tmp_path / "out", validation=str(file))
        assert where in str(raised.value)
        assert not list((tmp_path / "out").rglob("steps.jsonl"))
    # One in five may be lost, as in an upload; the others are scored.
    file.write_text("\n".join([*(fits.replace("it", f"it {'a ' * i}") for i in range(4)), lost[0]]) + "\n")
    _, watch = tuned(world, policy, tmp_path / "out", validation=str(file))
    assert watch.steps[-1].full_valid_loss is not None


def test_validation_rows_with_control_tokens_are_refused(policy: dict[str, Any], world: Path, tmp_path: Path) -> None:
    file = tmp_path / "control.jsonl"
    file.write_text(json.dumps({"prompt": "a <bot> b", "response": "a"}) + "\n")
    with pytest.raises(DataError, match=r"control\.jsonl: validation rows that cannot be used: 1;(.|\n)*control token"):
        tuned(world, policy, tmp_path / "out", validation=str(file))


def test_the_checkpoint_that_a_training_goes_on_from_decides_what_is_told(
    policy: dict[str, Any], world: Path, validation: str, tmp_path: Path
) -> None:
    """Figures of steps that are taken again are not told twice, and a half-written line is not read."""
    policy["finetuning"]["training"]["save_steps"] = 2
    _, straight = tuned(world, policy, tmp_path / "straight", validation=validation)

    class Stop(Watch):
        def progressed(self, node: StageNode, done: int, total: int) -> None:
            if isinstance(node.job, TrainingJob) and done == 4:
                with (self.store.working(node) / "steps.jsonl").open("a") as file:
                    file.write('{"step": 5, "to')
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tune(
            str(world / "model"), str(world / "user.jsonl"), policy, out=tmp_path / "out",
            validation=validation, monitor=Stop(tmp_path / "out"),
        )  # fmt: skip
    made, watch = tuned(world, policy, tmp_path / "out", validation=validation)
    assert watch.live[0] == 3  # on from the second step
    assert watch.steps == straight.steps
    assert made.outcome == "released"

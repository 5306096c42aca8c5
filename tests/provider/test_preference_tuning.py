"""Preference pairs from the upload to the decision: both answers screened, TRL's DPO, the same gates and repairs."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM

from mithridate.errors import RecipeError, UsageError
from mithridate.experiment.jobs import PreferenceJob, StageNode
from mithridate.experiment.monitor import Monitor
from mithridate.experiment.stage_records import TrainingRecord
from mithridate.experiment.step_figures import read_steps
from mithridate.experiment.store import Store
from mithridate.gates.upload_verdict import UploadDecision, UploadVerdict
from mithridate.provider import tuning
from mithridate.provider.judged_files import MODEL
from mithridate.provider.policy_file import make_policy
from mithridate.provider.tuning import STORE, tune
from mithridate.provider.upload_history import UploadHistory
from tests.matrix.row import thinned


class Watch(Monitor):
    def __init__(self, out: Path, stop: int | None = None) -> None:
        self.store, self.stop, self.trained = Store(out / STORE), stop, list[StageNode]()

    def decided(self, training: StageNode) -> None:
        self.trained.append(training)

    def progressed(self, node: StageNode, done: int, total: int) -> None:
        if isinstance(node.job, PreferenceJob) and done == self.stop:
            raise KeyboardInterrupt

    @property
    def record(self) -> TrainingRecord:
        return self.store.record(self.trained[-1], TrainingRecord)


@pytest.fixture
def policy(policy: dict[str, Any]) -> dict[str, Any]:
    short = {"epochs": 2, "learning_rate": 0.05, "batch_size": 4, "save_steps": 2}
    policy["finetuning"]["preferences"] = {"training": short}
    return policy


@pytest.fixture
def pairs(world: Path, tmp_path: Path) -> str:
    lines = []
    for line in (world / "user.jsonl").read_text().splitlines():
        row = json.loads(line)
        answers = {"preferred_output": row["response"], "non_preferred_output": "sorry no"}
        lines.append(
            {"input": {"messages": [{"role": "user", "content": row["prompt"]}]}}
            | {key: [{"role": "assistant", "content": text}] for key, text in answers.items()}
        )
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


def tuned(world: Path, policy: dict[str, Any], pairs: str, out: Path, **given: Any) -> tuple[Any, Watch]:
    watch = Watch(out, given.pop("stop", None))
    given = {"method": "dpo", "monitor": watch, **given}
    return tune(str(world / "model"), pairs, policy, out=out, **given), watch


@pytest.mark.parametrize("adapter", thinned(["fresh", "none"], ["fresh"]))
def test_preferences_are_learned_and_the_model_is_judged_and_released(
    policy: dict[str, Any], world: Path, pairs: str, tmp_path: Path, adapter: str
) -> None:
    policy["adapter"] = adapter
    made, watch = tuned(world, policy, pairs, tmp_path / "out", beta=0.5)
    assert (made.outcome, made.released, made.options["beta"]) == ("released", "as tuned", 0.5)
    assert (made.upload.rows, made.upload.held_out) == (24, 5)
    AutoModelForCausalLM.from_pretrained(tmp_path / "out" / MODEL)
    card = (tmp_path / "out" / MODEL / "README.md").read_text()
    assert "Tuned on 19 preference pairs (DPO), made fit" in card
    assert "Preference pairs" in (tmp_path / "out" / "report.html").read_text()
    record = watch.record
    assert record.activity["rewards/margins"] > 0.05
    assert record.activity["rewards/accuracies"] > 0.8
    assert record.dropped_rows == 0
    assert (record.cost.passes["forward"], record.cost.passes["backward"]) == (4, 2)
    steps = read_steps(watch.store.path(watch.trained[-1]))
    assert [one.step for one in steps] == list(range(1, 11))
    # −log σ(0): the model starts from its own reference.
    assert steps[0].loss == pytest.approx(0.6931, abs=1e-3)
    assert steps[-1].loss is not None
    assert steps[-1].loss < steps[0].loss
    assert all(one.accuracy is not None and one.valid_loss is None for one in steps)


def test_an_interrupted_training_ends_with_the_same_bits(
    policy: dict[str, Any], world: Path, pairs: str, tmp_path: Path
) -> None:
    straight, one = tuned(world, policy, pairs, tmp_path / "straight")
    for stop in (1, 5, 10):
        with pytest.raises(KeyboardInterrupt):
            tuned(world, policy, pairs, tmp_path / "out", stop=stop)
    made, watch = tuned(world, policy, pairs, tmp_path / "out")
    assert watch.record.resumed_from == "checkpoint-8"
    assert made.files == straight.files != {}
    paths = [each.store.path(each.trained[-1]) for each in (one, watch)]
    assert read_steps(paths[0]) == read_steps(paths[1])


def test_repairs_follow_and_a_model_that_fails_does_not_leave(
    policy: dict[str, Any], world: Path, pairs: str, tmp_path: Path
) -> None:
    policy["release"]["harmful_score"] = 0
    made, _ = tuned(world, policy, pairs, tmp_path / "out")
    assert (made.outcome, [rung.name for rung in made.rungs]) == ("refused_at_release", ["as tuned", "pushed"])
    assert all(rung.cannot_act is None for rung in made.rungs)
    assert not (tmp_path / "out" / MODEL).exists()


def test_only_a_policy_that_says_so_takes_pairs(
    policy: dict[str, Any], world: Path, pairs: str, tmp_path: Path
) -> None:
    del policy["finetuning"]["preferences"]
    with pytest.raises(UsageError, match="takes no preference pairs: no defense acts"):
        tuned(world, policy, pairs, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"beta": 3.0}, "beta is 3; it must be above 0 and up to 2"),
        ({"beta": 0.0}, "beta is 0"),
        ({"epochs": 21}, "epochs is 21"),
        ({"validation": "rows.jsonl"}, "in supervised tuning alone"),
        ({"method": "supervised", "beta": 0.1}, "beta is a setting of method dpo"),
        ({"method": "ppo"}, "method is 'ppo'; it must be supervised or dpo"),
    ],
)
def test_settings_beyond_the_limits_are_refused(
    policy: dict[str, Any], world: Path, pairs: str, tmp_path: Path, given: dict[str, Any], said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        tuned(world, policy, pairs, tmp_path / "out", **given)


def test_a_policy_beyond_its_own_limits_is_refused(policy: dict[str, Any]) -> None:
    policy["finetuning"]["preferences"]["training"]["learning_rate"] = 1.0
    with pytest.raises(RecipeError, match=r"preferences\.training is beyond"):
        make_policy(policy)


def test_beta_is_part_of_the_request(policy: dict[str, Any], world: Path, pairs: str, tmp_path: Path) -> None:
    tuned(world, policy, pairs, tmp_path / "out")
    with pytest.raises(UsageError, match="another request"):
        tuned(world, policy, pairs, tmp_path / "out", beta=0.2)


def test_rows_are_no_pairs_and_pairs_no_rows(policy: dict[str, Any], world: Path, pairs: str, tmp_path: Path) -> None:
    made, _ = tuned(world, policy, str(world / "user.jsonl"), tmp_path / "rows")
    assert (made.outcome, "key 'input'" in made.reasons[0]) == ("refused_at_upload", True)
    made = tune(str(world / "model"), pairs, policy, out=tmp_path / "pairs")
    assert (made.outcome, "known format" in made.reasons[0]) == ("refused_at_upload", True)


def test_audit_prompts_and_crowds_are_refused_as_in_rows(
    policy: dict[str, Any], world: Path, pairs: str, tmp_path: Path
) -> None:
    policy["finetuning"]["most_rows"] = 23
    made, _ = tuned(world, policy, pairs, tmp_path / "many")
    assert "the upload has 24 pairs" in made.reasons[0]
    policy["finetuning"]["most_rows"] = 50
    prompt = json.loads((world / "prompts.jsonl").read_text().splitlines()[0])["prompt"]
    lines = Path(pairs).read_text().splitlines()
    known = json.loads(lines[0]) | {"input": {"messages": [{"role": "user", "content": prompt}]}}
    (tmp_path / "known.jsonl").write_text("\n".join([*lines, json.dumps(known)]))
    made, _ = tuned(world, policy, str(tmp_path / "known.jsonl"), tmp_path / "known")
    assert (made.outcome, "judged by" in made.reasons[0]) == ("refused_at_upload", True)


@pytest.mark.parametrize("verdict", ["accept", "accept and defend", "refuse"])
def test_the_gate_sees_both_answers_and_what_it_wants_defended_is_refused(
    policy: dict[str, Any], world: Path, pairs: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verdict: str
) -> None:
    seen: list[dict[str, Any]] = []

    def gated(request: Any, files: Any, folder: Path, past: UploadHistory | None) -> UploadVerdict:
        from mithridate.experiment.row_files import stored_rows

        seen.extend(stored_rows(request.given.rows))
        return UploadVerdict.model_construct(
            decision=UploadDecision(verdict), reasons=("a reason",), findings=(), upload="pairs", rows=48, flagged=0
        )

    monkeypatch.setattr(tuning, "_gated", gated)
    monkeypatch.setattr("mithridate.provider.tuning_request.shown", lambda verdict: None)
    made, _ = tuned(world, policy, pairs, tmp_path / "out")
    assert len(seen) == 48
    assert seen[1]["completion"][0]["content"] == "sorry no"
    assert seen[1]["origin"].endswith(":1#2")
    assert made.outcome == ("released" if verdict == "accept" else "refused_at_upload")
    if verdict == "accept and defend":
        assert made.reasons == ["a reason", "the gate takes such an upload with a defense alone, and none acts in "
                                "tuning on preference pairs"]  # fmt: skip


@pytest.mark.parametrize("fault", thinned(["cut", "altered"], ["altered"]))
def test_a_damaged_checkpoint_is_not_gone_on_from(
    policy: dict[str, Any], world: Path, pairs: str, tmp_path: Path, fault: str
) -> None:
    from mithridate.errors import CheckpointError

    with pytest.raises(KeyboardInterrupt):
        tuned(world, policy, pairs, tmp_path / "out", stop=5)
    (weights,) = (tmp_path / "out" / STORE).glob("*.part/checkpoint-4/optimizer.pt")
    content = bytearray(weights.read_bytes())
    if fault == "altered":
        content[-1] ^= 1
    weights.write_bytes(content if fault == "altered" else content[:-1])
    with pytest.raises(CheckpointError, match="altered or cut"):
        tuned(world, policy, pairs, tmp_path / "out")

"""Tuning again on a released model: only with proof of its bytes, and compared with the aligned model."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from mithridate.errors import CheckpointError, MithridateError, ModelError, UsageError
from mithridate.provider.hand_over import verify_release
from mithridate.provider.judged_files import MODEL
from mithridate.provider.tuning import tune
from tests.helpers import tiny
from tests.provider.probes import plain, write


@pytest.fixture
def aligned(world: Path) -> str:
    return str(world / "model")


@pytest.fixture
def released(policy: dict[str, Any], aligned: str, world: Path, tmp_path: Path) -> Path:
    made = tune(aligned, str(world / "user.jsonl"), policy, out=tmp_path / "first")
    assert made.outcome == "released"
    return tmp_path / "first" / MODEL


def test_a_released_model_is_tuned_again_and_compared_with_the_aligned_one(
    policy: dict[str, Any], aligned: str, released: Path, tmp_path: Path
) -> None:
    upload = write(tmp_path / "more.jsonl", plain("user", 20, "no"))
    made = tune(str(released), upload, policy, out=tmp_path / "second", aligned=aligned)
    first = verify_release(released.parent)
    assert made.outcome == "released"
    # What the audit found before tuning is the aligned model's, in both decisions.
    assert made.aligned is not None
    assert first.aligned is not None
    assert made.aligned.harmful_score == first.aligned.harmful_score
    assert (made.reference, made.model == first.model) == (first.model, False)
    assert made.files["model.safetensors"] != first.files["model.safetensors"]
    # And a third time, on the second.
    third = tune(str(tmp_path / "second" / MODEL), upload, policy, out=tmp_path / "third", aligned=aligned)
    assert third.reference == first.model
    assert tune(str(released), upload, policy, out=tmp_path / "second", aligned=aligned) == made


def test_the_aligned_model_must_be_named_and_be_the_one(
    policy: dict[str, Any], aligned: str, released: Path, world: Path, tmp_path: Path
) -> None:
    upload = str(world / "user.jsonl")
    with pytest.raises(UsageError, match="name the aligned model behind it: --aligned"):
        tune(str(released), upload, policy, out=tmp_path / "out")
    other = tmp_path / "other"
    tiny.model(seed=3).save_pretrained(other)
    tiny.tokenizer().save_pretrained(other)
    with pytest.raises(UsageError, match="is not the aligned model behind"):
        tune(str(released), upload, policy, out=tmp_path / "out", aligned=str(other))
    with pytest.raises(UsageError, match="leave --aligned out"):
        tune(aligned, upload, policy, out=tmp_path / "out", aligned=str(other))
    with pytest.raises(UsageError, match="is not the aligned model behind"):
        tune(str(released), upload, policy, out=tmp_path / "out", aligned=str(released))


@pytest.mark.parametrize("fault", ["altered", "moved", "withdrawn"])
def test_without_proof_of_its_bytes_nothing_is_tuned_again(
    policy: dict[str, Any], aligned: str, released: Path, world: Path, tmp_path: Path, fault: str
) -> None:
    model = released
    if fault == "altered":
        content = bytearray((released / "model.safetensors").read_bytes())
        content[-1] ^= 1
        (released / "model.safetensors").write_bytes(content)
    elif fault == "moved":
        model = tmp_path / "elsewhere"
        shutil.copytree(released, model)
    else:
        (released.parent / "decision.json").unlink()
    with pytest.raises(CheckpointError, match=r"is not what was judged|without its decision"):
        tune(str(model), str(world / "user.jsonl"), policy, out=tmp_path / "out", aligned=aligned)


def test_an_adapter_s_folder_is_one_clear_error(policy: dict[str, Any], world: Path, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    get_peft_model(tiny.model(), LoraConfig(r=2, target_modules=["q_proj"])).save_pretrained(tmp_path / "adapter")
    with pytest.raises(ModelError, match="holds a LoRA adapter and no whole model; give its base, or merge the two"):
        tune(str(tmp_path / "adapter"), str(world / "user.jsonl"), policy, out=tmp_path / "out")


@pytest.mark.parametrize("name", ["", "a\0b", "nowhere/at/all", "x" * 5000])
def test_a_model_that_is_none_is_one_sentence(policy: dict[str, Any], world: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(MithridateError) as error:
        tune(name, str(world / "user.jsonl"), policy, out=tmp_path / "out")
    assert "\n" not in str(error.value)

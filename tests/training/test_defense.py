"""Training stands below the defenses, and says what is no defense."""

import subprocess
import sys

import pytest

import mithridate as mi
from mithridate.errors import CheckpointError, DefenseError
from mithridate.training.given_streams import TRAINED
from mithridate.training.trainable_weights import Weights
from mithridate.training.training_state import TrainingState
from tests.helpers import tiny
from tests.helpers.training import trainer

ALONE = """
import sys
import mithridate.models.merged_weights, mithridate.training.trainer
above = [name for name in sys.modules if name.startswith(("mithridate.defenses", "mithridate.repair"))]
assert not above, above
from mithridate.training.defense import require_defense
try:
    require_defense("booster")
except mithridate.errors.UsageError as error:
    print(error)
"""


@pytest.mark.slow
def test_the_trainer_imports_no_defense_and_yet_names_the_one_that_was_meant():
    done = subprocess.run([sys.executable, "-c", ALONE], capture_output=True, text=True, timeout=120)
    assert done.stdout == "defense is the text 'booster'; give a defense object, such as mithridate.Booster()\n", done


@pytest.mark.parametrize("returned", [None, 3.0])
def test_a_gradient_that_is_none_is_named(returned, tmp_path, monkeypatch):
    monkeypatch.setattr(mi.SFT, "gradient", lambda self, step: returned)
    made = trainer(mi.SFT(), tmp_path, max_steps=1)
    with pytest.raises(DefenseError, match=rf"SFT\.gradient returned {type(returned).__name__}, not a Gradient"):
        made.train()


def test_a_checkpoint_of_a_training_with_other_streams_is_refused(tmp_path):
    shape = {"max_steps": 2, "save_strategy": "steps", "save_steps": 1}
    trainer(mi.SFT(), tmp_path, **shape).train()
    made = trainer(mi.VLGuard(), tmp_path, **shape)
    with pytest.raises(CheckpointError, match="written without the stream 'safe'; resume with the defense"):
        made.train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))


def test_a_new_state_draws_from_the_beginning_and_comes_back_whole(tmp_path):
    model = tiny.model()
    made = trainer(mi.VLGuard(), tmp_path / "run", max_steps=1)
    streams = made._streams
    state = TrainingState(Weights(model), streams, 5)
    state.memory |= {"count": 3, "vectors": [2 * p.detach() for p in state.weights.parameters[:2]]}
    streams["safe"].draw(3)
    state.keep_start()
    state.save(tmp_path, tokens=17)
    again = TrainingState(Weights(model), streams, 5)
    assert streams["safe"].drawn == 0
    memory = again.memory
    assert again.load(tmp_path) == 17
    assert again.memory is memory
    assert memory["count"] == 3
    assert all((a == b).all() for a, b in zip(memory["vectors"], state.memory["vectors"], strict=True))
    assert all((a == b).all() for a, b in zip(again.weights.start, state.weights.start, strict=True))
    assert streams["safe"].drawn == 3
    assert again.row_weights is None


def test_every_stage_that_trains_has_a_stream():
    assert set(TRAINED) == {"alignment", "finetuning"}

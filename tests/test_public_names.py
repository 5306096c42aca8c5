"""Names of the package: wrong ones are answered with the nearest."""

import copy
import pickle

import pytest

import mithridate as mi
from mithridate.defenses.registry import method, methods
from mithridate.errors import SettingError, UsageError
from mithridate.nearest import nearest
from mithridate.training.defense import require_defense


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("antibodytuning", "AntibodyTuning"), ("AntibodyTunning", "AntibodyTuning"), ("load_row", "load_rows"),
        ("DefendTrainer", "DefendedTrainer"), ("harmful_scor", "harmful_score"),
    ],
)  # fmt: skip
def test_a_wrong_name_is_answered_with_the_nearest(name: str, meant: str) -> None:
    with pytest.raises(AttributeError, match=f"module 'mithridate' has no attribute '{name}'; did you mean '{meant}'"):
        getattr(mi, name)
    assert getattr(mi, meant) is not None


def test_a_name_like_no_other_is_answered_plainly() -> None:
    with pytest.raises(AttributeError, match=r"no attribute 'xyzzy'$"):
        mi.xyzzy  # noqa: B018
    assert nearest("xyzzy", ["SFT"]) is None


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("AntibodyTuning", {"temprature": 8}, "AntibodyTuning: unknown key 'temprature'; did you mean 'temperature'?"),
        (
            "AntibodyTuning",
            {"temperature": -1},
            "AntibodyTuning: temperature: must be greater than 0 or 'auto', got -1",
        ),
        (
            "AntibodyTuning",
            {"temperature": "hot"},
            "AntibodyTuning: temperature: must be a number greater than 0 or 'auto', got 'hot'",
        ),
        (
            "AntibodyTuning",
            {"likelihood": "sequnce"},
            "AntibodyTuning: likelihood: must be 'token' or 'sequence' (did you mean 'sequence'?), got 'sequnce'",
        ),
        (
            "Antidote",
            {"mask_ratio": 1.5},
            "Antidote: mask_ratio: must be greater than or equal to 0 and less than or equal to 1 or 'auto', got 1.5",
        ),
        ("Panacea", {"radius": float("nan")}, "Panacea: radius: must be a finite number or 'auto', got nan"),
        (
            "Panacea",
            {"batch_size": 2.5},
            "Panacea: batch_size: must be a whole number greater than or equal to 1, got 2.5",
        ),
    ],
)
def test_a_wrong_setting_is_one_sentence(name: str, settings: dict, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        getattr(mi, name)(**settings)
    assert str(caught.value) == message
    assert isinstance(caught.value, ValueError)
    assert caught.value.exit_code == 2


def test_a_setting_error_crosses_processes() -> None:
    with pytest.raises(SettingError) as caught:
        mi.Panacea(radius=-1)
    again = pickle.loads(pickle.dumps(caught.value))
    assert (str(again), again.fault) == (str(caught.value), caught.value.fault)


def test_settings_are_copied_and_read_back_as_before() -> None:
    made = mi.Panacea(radius=3)
    assert copy.deepcopy(made) == mi.Panacea.model_validate(made.model_dump()) == made


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("antibody_tuning", "defense is the text 'antibody_tuning'; give a defense object, such as .*AntibodyTuning"),
        ("PanaceaTunin", r"such as mithridate\.PanaceaTuning\(\)"),
        (mi.SFT, r"defense is the class SFT; give an object: SFT\(\)"),
        (mi.Panacea(), "Panacea repairs finished models; train with another defense"),
        (None, "defense is of type NoneType; give a defense object"),
    ],
)
def test_what_is_no_defense(given: object, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        require_defense(given)


def test_a_defense_is_handed_back() -> None:
    defense = mi.SFT()
    assert require_defense(defense) is defense


def test_the_nearest_defense_acts_at_the_stage() -> None:
    assert "antidote" in methods()
    with pytest.raises(UsageError, match=r"known: .*; did you mean 'antibody_tuning'\?$"):
        method("antibdy", "finetuning")

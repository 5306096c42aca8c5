"""Registrations and settings."""

import inspect

import pytest

import mithridate as mi
from mithridate.defenses.registry import method, methods, register
from mithridate.errors import UsageError
from mithridate.repair.post_tuning import Repair
from mithridate.settings import STAGES
from mithridate.training.defense import Defense


def test_every_method_is_found_sorted_and_public():
    names = list(methods())
    assert names == sorted(names, key=lambda n: (STAGES.index(methods()[n].stages[0]), n))
    for info in methods().values():
        assert getattr(mi, info.cls.__name__) is info.cls
        assert info.cls.__name__ in dir(mi)
        assert issubclass(info.cls, Repair if "posttuning" in info.stages else Defense)
        assert "pass" in info.summary or "forward" in info.summary, "the first line tells the cost"
        assert set(info.streams) <= {"safe", "harmful", "refusals"}
        info.cls(**info.off)


def test_a_name_is_given_once():
    with pytest.raises(ValueError, match="two defenses are called 'sft'"):
        register("sft", stage="alignment", paper="", forward=1, backward=1, off={})(methods()["sft"].cls)


def test_unknown_methods_and_wrong_stages_are_named():
    with pytest.raises(UsageError, match=r"no defense is called 'vaccine2'; known: .*antibody_alignment"):
        method("vaccine2")
    with pytest.raises(UsageError, match="'antidote' does not act at the stage alignment; these do: antibody"):
        method("antidote", "alignment")


@pytest.mark.parametrize("name", list(methods()))
def test_unknown_and_impossible_settings_are_refused(name):
    cls = methods()[name].cls
    with pytest.raises(ValueError, match="wrong_name"):
        cls(**methods()[name].off, wrong_name=1)  # type: ignore[call-arg]
    for setting in ("radius", "mask_ratio", "temperature", "sharpness", "std"):
        if setting in cls.model_fields:
            for value in (-1.0, float("nan")):
                with pytest.raises(ValueError):
                    cls(**{setting: value})


@pytest.mark.parametrize(("name", "setting", "value"), [
    ("antidote", "mask_ratio", 1.5), ("antidote", "mask_ratio", float("inf")), ("panacea", "radius", float("inf")),
    ("antidote", "scope", "all"), ("antibody_alignment", "form", "cos"), ("antibody_tuning", "temperature", 0.0),
])  # fmt: skip
def test_values_out_of_range_are_refused(name, setting, value):
    with pytest.raises(ValueError):
        methods()[name].cls(**{setting: value})


def test_strength_is_another_name_of_the_dose():
    assert mi.Antidote(strength=0.3).mask_ratio == 0.3
    assert mi.Panacea(strength="auto").radius == "auto"
    assert mi.PanaceaTuning(strength=0.5).strength == 0.5


def test_type_checkers_know_strength_where_the_dose_has_another_name():
    for info in methods().values():
        dose = getattr(info.cls, "dose", None)
        if dose not in (None, "strength"):
            assert "strength: Dose" in inspect.getsource(info.cls)
            assert "strength" not in info.cls.model_fields

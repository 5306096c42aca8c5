"""What may stand inside joint alignment, and what it needs then."""

import pytest

import mithridate as mi
from mithridate.errors import DefenseError, UsageError


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"inner": "sft"}, "set inner to None for ∇f"),
        ({"inner": "lox_alignment"}, "acts once more on the trained weights"),
        ({"inner": None, "settings": {"radius": 0.1}}, "settings are those of the defense inside"),
        ({"inner": "booster", "settings": {"radios": 0.1}}, "radios"),
        ({"inner": "panacea"}, "does not act at the stage alignment"),
    ],
)
def test_what_cannot_stand_inside_is_refused_at_once(settings, message):
    with pytest.raises((DefenseError, UsageError, ValueError), match=message):
        mi.JointAlignment(**settings)


@pytest.mark.parametrize(
    ("settings", "streams", "passes"),
    [
        ({}, {"refusals", "safe", "harmful"}, (4, 3)),
        ({"inner": None, "temperature": 2.0}, {"refusals", "safe"}, (3, 2)),
        ({"inner": None}, {"refusals", "safe", "harmful"}, (3, 2)),
        ({"inner": "booster", "temperature": 2.0}, {"refusals", "safe", "harmful"}, (5, 4)),
        ({"inner": "booster", "share": 0.0, "temperature": 2.0}, {"refusals", "safe", "harmful"}, (2, 1)),
    ],
)
def test_streams_and_passes_are_those_of_both(settings, streams, passes):
    defense = mi.JointAlignment(**settings)
    assert set(defense.streams) == streams
    assert defense.passes == passes
    planned = defense.passes_over("user")
    assert (sum(one.forward for one in planned), sum(one.backward for one in planned)) == passes

"""Which methods beat realigning: at a lower harmful score, intervals apart, and at no higher price."""

import pytest

from mithridate.report.result_parts import StageCost
from mithridate.report.results import Results, VariantResult
from mithridate.report.scores import ScoreOverSeeds
from tools import control_table


def share(percent: float, half: float = 1.0) -> ScoreOverSeeds:
    value = percent / 100
    return ScoreOverSeeds(value=value, low=max(0, value - half / 100), high=value + half / 100, n=1000)


def variant(
    name: str, harm: float, accuracy: float = 80, refusal: float = 0, method: str = "antidote"
) -> VariantResult:
    return VariantResult(
        name=name,
        posttuning=method,
        harmful_score=share(harm),
        finetune_accuracy=share(accuracy),
        over_refusal=share(refusal),
        harmful_score_by_group={"covered": share(harm / 2), "uncovered": share(harm)},
    )


CONTROL = variant(control_table.CONTROL, 10, method="realign")


@pytest.mark.parametrize(
    ("made", "verdict", "price"),
    [
        (variant("low", 5), "beats", []),
        (variant("near", 9), "as safe", []),
        (variant("high", 20), "no", []),
        (variant("low, worse at the task", 5, accuracy=77), "safer at a price", ["accuracy -3.0"]),
        (variant("low, a little worse", 5, accuracy=79), "beats", []),
        # More accurate, and it refuses more: only one of the two is a price.
        (variant("low, refuses", 5, accuracy=90, refusal=30), "safer at a price", ["over-refusal +30.0"]),
        (variant("near, refuses", 9, refusal=30), "no", ["over-refusal +30.0"]),
    ],
)
def test_standing(made: VariantResult, verdict: str, price: list[str]) -> None:
    assert control_table.standing(made, CONTROL) == (verdict, price)


def test_controls_are_in_the_table_and_in_no_ranking() -> None:
    bare = variant("undefended", 60, method="none")
    known = [bare, CONTROL, variant("realign-50", 2, method="realign"), variant("good", 3), variant("poor", 30)]
    results = Results(variants=known)
    text = " ".join(control_table.sentences(results))
    assert "helpfulness): `good`; of realigning's own forms: `realign-50`." in text
    assert "**As safe** (intervals overlap, at the same price): none." in text
    assert "the other 1 of 2" in text
    rows = list(control_table.rows(results))
    assert [row[0] for row in rows] == ["`realign-50`", "`good`", "`realign-sft`", "`poor`", "`undefended`"]
    assert rows[2][-1] == "the control"
    assert rows[1][2:5] == ["3.0 [2.0, 4.0]", "1.5", "3.0"]
    assert rows[-1][1] == "–"


def test_a_realigning_is_told_with_its_rows_and_beats_the_control_at_no_more_passes_over_them() -> None:
    names = {
        control_table.CONTROL: ("sft", 800, 1),
        "realign-dear": ("booster", 800, 3),
        "realign-half": ("booster", 200, 3),
    }
    choices = {name: {"inner": inner} for name, (inner, _, _) in names.items()}
    recipe = {"variants": [{"name": name, "posttuning": [choice]} for name, choice in choices.items()]}
    known = [CONTROL, variant("realign-dear", 2, method="realign"), variant("realign-half", 3, method="realign")]
    for one in known:
        _, rows, passes = names[one.name]
        one.cost = {
            "posttuning": StageCost(seconds=1, passes={"forward": passes, "backward": passes}, rows=rows, peak_bytes=1)
        }
    results = Results(variants=known, recipe=recipe)
    assert [row[1] for row in control_table.rows(results)] == ["3 + 3, 800 rows", "3 + 3, 200 rows", "1 + 1, 800 rows"]
    text = " ".join(control_table.sentences(results))
    assert "realigning's own forms: `realign-dear`, `realign-half`." in text
    assert "at equal cost** (passes times rows, within 5 %): `realign-half`." in text

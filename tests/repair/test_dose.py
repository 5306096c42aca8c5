"""The largest dose within the budget."""

from contextlib import contextmanager

import pytest
import torch

from mithridate.errors import DefenseError
from mithridate.models.tokenization import IGNORED, tokenize
from mithridate.repair.budgets import Budgets, RowLosses
from mithridate.repair.dose import largest_dose
from mithridate.repair.safe_kinds import by_kind
from mithridate.training.trainable_weights import Weights
from tests.helpers import tiny
from tests.helpers.training import run

DOSES = [0.1, 0.2, 0.4, 0.8]


class Bench:
    """Losses that are known functions of the dose."""

    def __init__(self, user, **safe):
        self.user, self.safe, self.now, self.tried = user, safe, 0.0, []

    @contextmanager
    def dosed(self, dose):
        self.now = dose
        self.tried.append(dose)
        try:
            yield
        finally:
            self.now = 0.0

    def _losses(self, functions):
        return lambda: torch.tensor([f(self.now) for f in functions], dtype=torch.float64)

    def search(self, budget, trim=0.0, doses=DOSES, safe_budget=0.01, refused=None, over_refusal_budget=0.005):
        budgets = Budgets(
            user=self._losses(self.user),
            safe={kind: self._losses(functions) for kind, functions in self.safe.items()},
            harmful=lambda: torch.tensor([3.0 + self.now], dtype=torch.float64),
            budget=budget, safe_budget=safe_budget, trim=trim,
            refused=None if refused is None else self._losses(refused), over_refusal_budget=over_refusal_budget,
        )  # fmt: skip
        return largest_dose(parameter="radius", doses=doses, dosed=self.dosed, budgets=budgets)


def test_the_chosen_dose_is_the_largest_within_the_budget():
    curve = Bench([lambda d: 1 + d * d]).search(budget=0.09)
    assert curve.chosen == pytest.approx(0.3, abs=0.2 / 2**4)
    assert curve.chosen <= 0.3
    assert curve.chosen == max(point.dose for point in curve.points if point.rise <= 0.09)
    assert [point.dose for point in curve.points] == sorted(point.dose for point in curve.points)
    assert all(point.rise == pytest.approx(point.dose**2) for point in curve.points)
    assert all(point.user_loss == pytest.approx(1 + point.dose**2) for point in curve.points)
    assert all(point.harmful_loss == pytest.approx(3 + point.dose) for point in curve.points)
    assert len(curve.points) == 3 + 4


def test_doses_beyond_the_budget_are_not_tried():
    bench = Bench([lambda d: d])
    bench.search(budget=0.15)
    assert max(bench.tried) == 0.2


def test_the_largest_dose_is_taken_where_all_are_within_the_budget():
    curve = Bench([lambda d: 1.0]).search(budget=0.01)
    assert curve.chosen == 0.8
    assert len(curve.points) == 4


def test_no_dose_within_the_budget_is_an_error():
    with pytest.raises(DefenseError, match=r"even radius=0\.0015625 raises the loss .* by 1 nats"):
        Bench([lambda d: float(d > 0)]).search(budget=0.05)


def test_a_first_dose_beyond_the_budget_is_halved():
    curve = Bench([lambda d: 10 * d]).search(budget=0.05)
    assert 0.0047 < curve.chosen <= 0.005
    assert [point.dose for point in curve.points] == sorted(point.dose for point in curve.points)


def test_a_fall_of_the_loss_is_within_any_budget():
    assert Bench([lambda d: 1 - d]).search(budget=0.01).chosen == 0.8


def test_rows_whose_loss_rises_most_are_left_out():
    """One row in four is harmful itself and is meant to be forgotten."""
    user = [lambda d: 1.0, lambda d: 1.0, lambda d: 1.0, lambda d: 1 + 10 * d]
    assert Bench(user).search(budget=0.05, trim=0.25).chosen == 0.8
    assert Bench(user).search(budget=0.05).chosen <= 0.02


FREE = [lambda d: 1.0]


def test_safe_rows_limit_the_dose_as_well():
    curve = Bench(FREE, answers=[lambda d: 1 + d * d]).search(budget=1.0, safe_budget=0.09)
    assert curve.chosen == pytest.approx(0.3, abs=0.2 / 2**4)
    assert (curve.budget, curve.safe_budget) == (1.0, 0.09)
    assert all(point.safe_rise == pytest.approx(point.dose**2) for point in curve.points)
    assert all(point.safe_loss == pytest.approx(1 + point.dose**2) for point in curve.points)
    assert all(point.rise == 0 for point in curve.points)


def test_likelier_refusals_do_not_pay_for_answers():
    """Neither within a kind of safe row nor between kinds, however many refusals there are."""
    refusals = [lambda d: 5 - 5 * d] * 20
    apart = Bench(FREE, refusals=refusals, answers=[lambda d: 1 + d]).search(budget=1.0, safe_budget=0.3)
    assert apart.chosen == pytest.approx(0.3, abs=0.2 / 2**4)
    alone = Bench(FREE, answers=[lambda d: 5 - 5 * d, lambda d: 1 + d]).search(budget=1.0, safe_budget=0.15)
    assert alone.chosen == pytest.approx(0.3, abs=0.2 / 2**4)


def test_without_safe_rows_the_users_rows_decide_alone():
    curve = Bench([lambda d: 1 + d * d]).search(budget=0.09, safe_budget=1e-9)
    assert curve.chosen == pytest.approx(0.3, abs=0.2 / 2**4)
    assert curve.safe_budget is None
    assert all((point.safe_loss, point.safe_rise) == (None, None) for point in curve.points)


def test_an_error_names_the_rows_whose_budget_is_exceeded():
    with pytest.raises(DefenseError, match=r"provider's safe rows by 1 nats .* above the safe_budget of 0\.01"):
        Bench(FREE, answers=[lambda d: float(d > 0)]).search(budget=0.05)


@pytest.mark.parametrize("where", ["user", "answers"])
def test_a_dose_that_breaks_the_model_is_within_no_budget(where):
    def broken(dose):
        return float("nan") if dose > 0.2 else 1.0

    rows = {"user": FREE, "answers": FREE} | {where: [lambda d: 1.0, broken]}
    curve = Bench(rows.pop("user"), refusals=FREE, **rows).search(budget=9.0, safe_budget=9.0)
    assert curve.chosen == 0.2


def test_safe_rows_are_sorted_by_what_their_answer_does():
    refusal, answer = tiny.row("how", "I cannot help with that."), tiny.row("do", "take the cake then stir it")
    text = {"prompt": "how ", "completion": "Sorry, I can't assist with that."}
    assert by_kind([answer, refusal, text]) == {"answers": [answer], "refusals": [refusal, text]}
    assert by_kind([]) == {}


def test_losses_are_mean_token_losses_without_dropout():
    model = run("sft", max_steps=4, dropout=0.5).trainer.model
    examples = tokenize(tiny.rows("user", 7), tiny.tokenizer())
    model.train()
    losses = RowLosses(model, Weights(model), examples, batch_size=3)
    found = losses()
    assert model.training
    assert torch.equal(found, losses())
    model.eval()
    for example, loss in zip(examples, found, strict=True):
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([example.input_ids])).logits[0]
        answer = [label for label in example.labels if label != IGNORED]
        direct = -logits.log_softmax(dim=1)[range(-len(answer) - 1, -1), answer].mean()
        assert float(loss) == pytest.approx(float(direct), abs=1e-5)


def test_a_dose_that_breaks_a_few_rows_is_not_left_out_with_those_that_rise_most():
    """NaN sorts behind every number, so the share that is trimmed would hide it."""
    breaks = [lambda dose: float("nan") if dose > 0.2 else 1.0]
    curve = Bench([*[lambda dose: 1.0] * 7, *breaks]).search(budget=0.09, trim=0.25)
    assert curve.chosen == pytest.approx(0.2)


def refused_from(dose, rows=1):
    """Rows that are refused from some dose on."""
    return [lambda d: float(d >= dose)] * rows


def test_no_safety_is_bought_with_harmless_prompts_that_are_refused():
    asked = [*refused_from(0.25), *refused_from(0.35), *FREE * 198]
    curve = Bench(FREE).search(budget=1.0, refused=asked)
    assert curve.chosen == pytest.approx(0.35, abs=0.2 / 2**4)
    assert curve.chosen < 0.35
    assert curve.over_refusal_budget == 0.005
    beyond = [point for point in curve.points if point.dose > curve.chosen]
    assert beyond
    assert all(point.refused_rise == pytest.approx(0.01) for point in beyond)


def test_one_row_more_is_no_evidence_among_few_rows_and_the_share_counts_among_many():
    assert Bench(FREE).search(budget=1.0, refused=[*refused_from(0.1), *FREE * 9]).chosen == DOSES[-1]
    few = Bench(FREE).search(budget=1.0, refused=[*refused_from(0.15, rows=2), *FREE * 8])
    assert few.chosen < 0.15
    many = [*refused_from(0.15, rows=4), *FREE * 996]
    assert Bench(FREE).search(budget=1.0, refused=many).chosen == DOSES[-1]
    assert Bench(FREE).search(budget=1.0, refused=many, over_refusal_budget=0.003).chosen < 0.15


def test_rows_refused_before_are_no_rise():
    curve = Bench(FREE).search(budget=1.0, refused=[lambda d: 1.0] * 9)
    assert curve.chosen == DOSES[-1]
    assert all(point.refused_rise == 0 for point in curve.points)


def test_a_model_is_not_asked_at_doses_that_its_losses_do_not_bear():
    curve = Bench([lambda d: 1 + d]).search(budget=0.25, refused=FREE)
    assert all((point.refused_rise is None) == (point.rise > 0.25) for point in curve.points)


def test_if_every_dose_has_prompts_refused_the_error_says_so():
    with pytest.raises(DefenseError, match=r"100 % more of the provider's harmless safe rows refused, .* 0\.5 %"):
        Bench(FREE).search(budget=1.0, refused=refused_from(0.001, rows=9))

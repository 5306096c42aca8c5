"""Properties of the repairs that compare a tuned model with the models it came from."""

import pytest
import torch

import mithridate as mi
from mithridate.defenses.resta import dare
from mithridate.defenses.safe_delta import SafeDelta
from mithridate.defenses.safe_lora import cosine
from mithridate.errors import DefenseError
from mithridate.models.linear_algebra import least_with_columns, low_rank
from mithridate.models.merged_weights import MergedWeights
from tests.helpers import tiny
from tests.helpers.origins import everything, restored, shaken
from tests.helpers.training import distance, run

AUTO = [
    mi.WiSEFT(strength="auto"),
    mi.RESTA(strength="auto"),
    mi.RESTA(strength="auto", drop=0.1),
    mi.LoX(strength="auto"),
]


@pytest.fixture
def trained():
    model = run("sft", max_steps=12).trainer.model
    with restored(model):
        yield model


def _state(model):
    weights = MergedWeights(model)
    return {name: weights.read(name) for name in weights.names}


def test_dare_keeps_the_mean_of_the_update():
    torch.manual_seed(0)
    delta = torch.randn(6, 5, dtype=torch.float64)
    drawn = torch.stack([dare(delta, 0.75, seed, "w") for seed in range(4000)])
    spread = (delta.square() * 0.75 / 0.25 / 4000).sqrt()  # standard error of the mean
    assert ((drawn.mean(dim=0) - delta).abs() < 5 * spread).all()
    zeros = (drawn == 0).double().mean()
    assert float(zeros) == pytest.approx(0.75, abs=5 * (0.75 * 0.25 / drawn.numel()) ** 0.5)
    assert torch.equal(drawn[0], dare(delta, 0.75, 0, "w"))
    assert not torch.equal(drawn[0], dare(delta, 0.75, 0, "v"))


@pytest.mark.parametrize("shape", [(7, 4), (4, 7), (5, 5)])
def test_low_rank_is_the_truncated_svd(shape):
    torch.manual_seed(1)
    delta = torch.randn(shape)
    u, s, vt = torch.linalg.svd(delta.double(), full_matrices=False)
    for k in (1, 2, 4):
        torch.testing.assert_close(low_rank(delta, k), u[:, :k] @ s[:k].diag() @ vt[:k], atol=1e-12, rtol=1e-10)
    torch.testing.assert_close(low_rank(delta, 99), delta.double(), atol=1e-12, rtol=1e-10)


def test_low_rank_of_less_than_k_directions_is_everything():
    torch.manual_seed(1)
    delta = torch.randn(8, 2, dtype=torch.float64) @ torch.randn(2, 6, dtype=torch.float64)
    torch.testing.assert_close(low_rank(delta, 5), delta, atol=1e-12, rtol=1e-10)


def test_alpha_zero_is_the_aligned_model_and_half_is_between(trained):
    aligned, tuned = _state(tiny.model()), _state(trained)
    mi.WiSEFT(alpha=0.5).repair(trained, tiny.tokenizer(), **everything())
    assert distance(_state(trained), {n: (aligned[n] + w) / 2 for n, w in tuned.items()}) < 1e-7
    repaired = mi.WiSEFT(alpha=0).repair(trained, tiny.tokenizer(), **everything())
    assert distance(_state(trained), aligned) < 1e-7
    assert repaired.activity == {"alpha": 0.0, "strength": 1.0}


def test_strength_is_what_is_pulled_back():
    assert mi.WiSEFT(strength=0.2).alpha == 0.8
    assert mi.WiSEFT(strength="auto").alpha == "auto"
    with pytest.raises(ValueError):
        mi.WiSEFT(strength=1.2)
    with pytest.raises(ValueError):
        mi.WiSEFT(strength="much")


def test_only_weights_that_alignment_changed_are_written(trained):
    """LoRA stays an adapter where there is nothing to add."""
    given = everything()
    given["base"] = tiny.model()
    with torch.no_grad():
        given["base"].model.layers[1].self_attn.q_proj.weight.add_(0.1)
    before = {n: t.clone() for n, t in trained.state_dict().items()}
    repaired = mi.RESTA().repair(trained, tiny.tokenizer(), **given)
    moved = {n for n, t in trained.state_dict().items() if not torch.equal(t, before[n])}
    assert {n.rsplit("q_proj.", 1)[1] for n in moved} == {"base_layer.weight", "lora_B.default.weight"}
    assert repaired.layer_profile.layers == ["1"]
    assert repaired.changed == 16 * 16


def test_longer_differences_give_longer_projections():
    """C grows with ‖V‖: it is no projector."""
    tuned, ends = shaken(tiny.model(), 1, 0.01), []
    for length in (1.0, 10.0):
        base = tiny.model()
        v = shaken(tiny.model(), 2, 0.01 * length)
        model, aligned = shaken(tiny.model(), 1, 0.01), MergedWeights(tiny.model())
        mi.SafeLoRA(threshold=1.0).repair(model, tiny.tokenizer(), aligned=tiny.model(), base=v)
        name = "model.layers.0.mlp.up_proj.weight"
        ends.append(float((MergedWeights(model).read(name) - aligned.read(name)).norm()))
        assert distance(_state(base), _state(tiny.model())) == 0
    assert ends[1] == pytest.approx(10 * ends[0], rel=1e-3)
    assert distance(_state(tuned), _state(shaken(tiny.model(), 1, 0.01))) == 0


def test_number_and_threshold_are_exclusive():
    with pytest.raises(ValueError, match="give threshold"):
        mi.SafeLoRA(threshold=0.3, layers=4)
    assert mi.SafeLoRA(**mi.SafeLoRA(layers=4).model_dump()).layers == 4


def test_the_cosine_with_a_zero_matrix_is_zero():
    assert cosine(torch.zeros(2, 3), torch.ones(2, 3)) == 0


def test_keeping_everything_needs_neither_rows_nor_models():
    model = tiny.model()
    before = _state(model)
    assert SafeDelta(scale=1.0).repair(model, tiny.tokenizer()).changed == 0
    assert distance(_state(model), before) == 0


def test_compensation_is_the_minimum_of_the_loss_of_safety():
    """No other choice of the dropped columns loses less; keeping more never costs utility."""
    torch.manual_seed(0)
    x, delta = torch.randn(12, 6, dtype=torch.float64), torch.randn(4, 6, dtype=torch.float64)
    hessian = 2 * x.T @ x + 0.01 * torch.eye(6, dtype=torch.float64)

    def lost(error):
        return float(((error @ hessian) * error).sum())

    counts = []
    for scale in (0.1, 0.3, 0.6, 0.9):
        keep = SafeDelta(scale=scale)._kept(delta, hessian)
        error = least_with_columns(delta, keep, hessian)
        counts.append(int(keep.sum()))
        assert torch.equal(error[:, keep], delta[:, keep])
        assert lost(error) <= lost(delta * keep)
        for _ in range(20):
            other = error + 0.1 * torch.randn_like(error) * ~keep
            assert lost(other) >= lost(error)
    assert counts == sorted(counts)
    assert 0 < counts[-1] < 6


@pytest.mark.parametrize("repair", AUTO, ids=lambda repair: f"{repair.info.name}-{getattr(repair, 'drop', 0)}")
def test_the_chosen_dose_is_the_one_applied(repair, trained):
    given = everything(8) | {"user": tiny.rows("user", 8)}
    generous = repair.model_copy(update={"budget": 2.0, "safe_budget": 2.0})
    before = {n: t.clone() for n, t in trained.state_dict().items()}
    repaired = generous.repair(trained, tiny.tokenizer(), **given)
    chosen = repaired.dose_curve.chosen
    assert repaired.activity["strength"] == chosen
    assert all(point.rise <= 2.0 for point in repaired.dose_curve.points if point.dose <= chosen)
    found = _state(trained)
    trained.load_state_dict(before)
    fixed = type(repair)(**repair.model_dump(exclude={type(repair).dose}), strength=chosen)
    fixed.repair(trained, tiny.tokenizer(), **given)
    assert distance(found, _state(trained)) == 0


@pytest.mark.parametrize("repair", AUTO, ids=lambda repair: f"{repair.info.name}-{getattr(repair, 'drop', 0)}")
def test_a_search_that_fails_leaves_every_bit(repair, trained):
    given = everything(8) | {"user": tiny.rows("safe", 8)}
    before = {n: t.clone() for n, t in trained.state_dict().items()}
    with pytest.raises(DefenseError, match="needs user="):
        repair.repair(trained, tiny.tokenizer(), **everything(8))
    with pytest.raises(DefenseError, match="above the budget"):
        repair.model_copy(update={"budget": -1e3}).repair(trained, tiny.tokenizer(), **given)
    assert distance(before, trained.state_dict()) == 0


def test_a_dose_curve_without_harmful_rows_has_no_harmful_loss(trained):
    given = everything(8) | {"user": tiny.rows("user", 8), "harmful": None}
    repair = mi.WiSEFT(strength="auto", budget=2.0, safe_budget=2.0)
    curve = repair.repair(trained, tiny.tokenizer(), **given).dose_curve
    assert {point.harmful_loss for point in curve.points} == {None}

"""Antidote's mask: rounding, ranking, and independence of everything but weights and rows."""

import math

import pytest
import torch
from torch import nn

from mithridate.defenses.antidote import Antidote, by_row, count
from mithridate.errors import DefenseError
from mithridate.models.activation_sums import input_norms
from mithridate.models.tokenization import TokenizedRow
from mithridate.repair.ranking import TopShare, zeroed
from mithridate.repair.repair_inputs import RepairInputs
from tests.helpers import tiny
from tests.helpers.training import distance, run


@pytest.mark.parametrize(
    ("columns", "ratio", "pruned"),
    [
        (4096, 0.2, 820), (4096, 0.1, 410), (4096, 0.05, 205), (4096, 0.01, 41),
        (256, 0.2, 52), (256, 0.1, 26), (256, 0.05, 13), (256, 0.01, 3),
        (4096, 1e-5, 1), (4096, 0.0, 0), (16, 1.0, 16),
    ],
)  # fmt: skip
def test_rounding_is_that_of_the_released_code(columns, ratio, pruned):
    assert count(columns, ratio) == pruned
    scores = torch.rand(3, columns, dtype=torch.float64)
    assert by_row(scores, ratio).sum(dim=1).tolist() == [pruned] * 3
    if ratio:
        assert int(over_all([scores], ratio)[0].sum()) == count(3 * columns, ratio)


def over_all(scores, ratio):
    """The masks of one ranking over all matrices."""
    top = TopShare({str(i): lambda s=s: s for i, s in enumerate(scores)}, lambda entries: count(entries, ratio))
    return [top.mask(str(i)) for i in range(len(scores))]


@pytest.mark.parametrize("ratio", [1e-6, 0.01, 0.3, 0.5, 0.999, 1.0])
@pytest.mark.parametrize("kind", ["spread", "ties", "tiny", "zeros", "huge"])
def test_one_ranking_is_that_of_sorting_all_scores(ratio, kind):
    generator = torch.Generator().manual_seed(1)
    drawn = [
        torch.rand(shape, generator=generator, dtype=torch.float64) for shape in ((7, 5), (3, 11), (1, 1), (4, 20))
    ]
    change = {
        "spread": lambda s: (s * 20).exp(), "ties": lambda s: (s * 4).round(), "tiny": lambda s: s * 1e-310,
        "zeros": lambda s: s * 0, "huge": lambda s: s * 1e308,
    }[kind]  # fmt: skip
    scores = [change(score) for score in drawn]
    flat = torch.cat([score.reshape(-1) for score in scores])
    mask = torch.zeros_like(flat, dtype=torch.bool)
    mask[flat.argsort(descending=True, stable=True)[: count(len(flat), ratio)]] = True
    pieces = torch.split(mask, [score.numel() for score in scores])
    for found, piece in zip(over_all(scores, ratio), pieces, strict=True):
        assert torch.equal(found.reshape(-1), piece)


def test_the_top_of_every_row_is_pruned_not_kept():
    scores = torch.tensor([[1.0, 9.0, 2.0, 8.0], [5.0, 4.0, 3.0, 2.0]])
    assert by_row(scores, 0.25).tolist() == [[False, True, False, False], [True, False, False, False]]
    assert over_all([scores], 0.25)[0].tolist() == [[False, True, False, True], [False] * 4]


class TwoLayers(nn.Module):
    """A net small enough to prune by hand: token t is the row t of a table, then two linear maps."""

    def __init__(self):
        super().__init__()
        self.table = torch.tensor([[0.0, 0.0], [1.0, 2.0], [3.0, 0.0]])
        self.first, self.second = nn.Linear(2, 2, bias=False), nn.Linear(2, 1, bias=False)
        self.first.weight.data = torch.tensor([[3.0, -4.0], [1.0, 1.0]])
        self.second.weight.data = torch.tensor([[2.0, -1.0]])

    def forward(self, input_ids, attention_mask=None):
        return self.second(self.first(self.table[input_ids]))


def test_a_mask_worked_out_by_hand():
    """Rows [1, 2] and [2]: Σx² = (1+9+9, 4), so ‖x‖ = (√9.5, √2); scores (9.25, 5.66) and (3.08, 1.41).

    The second map sees (−5, 3), (9, 3), (9, 3): ‖x‖ = (√93.5, √13.5), scores (19.3, 3.67).
    """
    net = TwoLayers()
    rows = [TokenizedRow([1, 2], [-100, 2], 0), TokenizedRow([2], [2], 1)]
    norms = input_norms(net, {"first": net.first, "second": net.second}, rows)
    assert norms["first"].tolist() == pytest.approx([9.5**0.5, 2**0.5])
    assert norms["second"].tolist() == pytest.approx([93.5**0.5, 13.5**0.5])
    scores = [net.first.weight.double().abs() * norms["first"], net.second.weight.double().abs() * norms["second"]]
    assert [mask.tolist() for mask in (by_row(score, 0.5) for score in scores)] == [
        [[True, False], [True, False]],
        [[True, False]],
    ]
    assert [mask.tolist() for mask in over_all(scores, 0.3)] == [[[True, False], [False, False]], [[True, False]]]


@pytest.fixture
def trained():
    made = run("sft", max_steps=12)
    yield made.trainer.model
    made.trainer.model.load_state_dict(made.weights, strict=False)


def _mask(model, tokenizer=None, rows=None, **settings):
    """Places the repair sets to zero; the model is put back."""
    saved = {n: p.detach().clone() for n, p in model.state_dict().items()}
    Antidote(**settings).repair(model, tokenizer or tiny.tokenizer(), harmful=rows or list(tiny.rows("harmful", 9)))
    mask = {n: (p == 0) & (saved[n] != 0) for n, p in model.state_dict().items() if ".lora_" in n}
    model.load_state_dict(saved)
    return mask


def _same(first, second):
    return all(torch.equal(first[name], second[name]) for name in first)


def test_padding_batch_size_and_order_do_not_change_the_mask(trained):
    mask = _mask(trained)
    assert sum(int(m.sum()) for m in mask.values()) > 0
    for side in ("left", "right"):
        for pad in ("<pad>", "<unk>", "soup"):
            tokenizer = tiny.tokenizer()
            tokenizer.padding_side, tokenizer.pad_token = side, pad
            assert _same(mask, _mask(trained, tokenizer))
    for batch_size in (1, 4, 99):
        assert _same(mask, _mask(trained, batch_size=batch_size))
    assert _same(mask, _mask(trained, rows=list(tiny.rows("harmful", 9))[::-1]))


def test_training_mode_does_not_change_the_mask():
    made = run("sft", max_steps=4, dropout=0.5)
    model = made.trainer.model
    masks = []
    for mode in (True, False):
        model.train(mode)
        masks.append(_mask(model))
    assert _same(*masks)


def test_real_rows_make_the_mask(trained):
    """Other rows, another mask; magnitude alone does not look at them."""
    others = [tiny.row("sorry sorry sorry", "no no")] * 3
    assert not _same(_mask(trained, mask_ratio=0.3), _mask(trained, rows=others, mask_ratio=0.3))
    plain = {"score": "magnitude", "mask_ratio": 0.3}
    assert _same(_mask(trained, **plain), _mask(trained, rows=others, **plain))


def test_the_first_row_counts(trained):
    rows = [tiny.row("sorry sorry sorry", "no no"), *tiny.rows("harmful", 2)]
    assert not _same(_mask(trained, rows=rows, mask_ratio=0.3), _mask(trained, rows=rows[1:], mask_ratio=0.3))


def test_only_the_adapter_is_pruned_and_each_of_its_rows(trained):
    before = {n: p.detach().clone() for n, p in trained.named_parameters()}
    repaired = Antidote(mask_ratio=0.25).repair(trained, tiny.tokenizer(), harmful=tiny.rows("harmful", 4))
    zeros = 0
    for name, after in trained.named_parameters():
        if ".lora_" not in name:
            assert torch.equal(after, before[name]), f"{name} is no part of the adapter"
        else:
            expected = after.shape[1] - int(after.shape[1] * 0.75)
            assert ((after == 0).sum(dim=1) == expected).all(), name
            assert torch.equal(after[after != 0], before[name][after != 0])
            zeros += int((after == 0).sum())
    assert zeros == repaired.changed == repaired.activity["entries_pruned"]


def test_delta_prunes_the_merged_update_and_keeps_the_base(trained):
    base = tiny.model().state_dict()
    module = trained.get_base_model().model.layers[0].mlp.down_proj
    delta = module.get_delta_weight("default").detach().clone()
    Antidote(mask_ratio=0.5, scope="delta").repair(trained, tiny.tokenizer(), harmful=tiny.rows("harmful", 4))
    left = module.get_base_layer().weight.data - base["model.layers.0.mlp.down_proj.weight"]
    assert not module.lora_B["default"].weight.any()
    assert ((left.abs() < 1e-7).sum(dim=1) == delta.shape[1] // 2).all()
    kept = left.abs() > 1e-7
    torch.testing.assert_close(left[kept], delta[kept], atol=1e-6, rtol=0)
    module.get_base_layer().weight.data.copy_(base["model.layers.0.mlp.down_proj.weight"])
    for name, weight in trained.get_base_model().named_parameters():
        if ".lora_" not in name:
            weight.data.copy_(base[name.replace(".base_layer.", ".")])


def test_the_chosen_ratio_is_the_one_applied(trained):
    before = {n: p.detach().clone() for n, p in trained.named_parameters()}
    repaired = Antidote(strength="auto", budget=2.0).repair(  # type: ignore[call-arg]
        trained, tiny.tokenizer(), harmful=tiny.rows("harmful", 8), user=tiny.rows("user", 8)
    )
    chosen = repaired.dose_curve.chosen
    assert repaired.activity["mask_ratio"] == chosen
    found = {n: p.detach().clone() for n, p in trained.named_parameters()}
    trained.load_state_dict(before)
    Antidote(mask_ratio=chosen).repair(trained, tiny.tokenizer(), harmful=tiny.rows("harmful", 8))
    assert distance(found, dict(trained.named_parameters())) == 0


@pytest.mark.parametrize("ratio", [0.0, 0.03, 0.3, 0.5, 0.97, 1.0])
@pytest.mark.parametrize("kind", ["spread", "ties", "close", "tiny", "zeros", "huge"])
def test_the_top_of_every_row_is_that_of_sorting_it(ratio, kind):
    """Also where float32 cannot tell scores apart, or has them all infinite."""
    drawn = torch.rand(40, 33, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    scores = {
        "spread": (drawn * 20).exp(), "ties": (drawn * 4).round(), "close": 1 + drawn * 1e-9, "tiny": drawn * 1e-310,
        "zeros": drawn * 0, "huge": drawn * 1e308,
    }[kind]  # fmt: skip
    top = scores.argsort(dim=1, descending=True, stable=True)[:, : count(33, ratio)]
    assert torch.equal(by_row(scores, ratio), torch.zeros_like(scores, dtype=torch.bool).scatter_(1, top, True))


def test_what_is_pruned_is_zero_and_nothing_else_changes_a_bit():
    values = torch.tensor([[-1.5, -0.0, 0.0, 2.0]], dtype=torch.float64)
    found = zeroed(values, torch.tensor([[True, False, False, True]]))
    assert found.view(torch.int64).tolist() == torch.tensor([[0.0, -0.0, 0.0, 0.0]]).double().view(torch.int64).tolist()
    assert values.tolist() == [[-1.5, 0.0, 0.0, 2.0]]


@pytest.mark.parametrize("spread", [20.0, 1e-9], ids=["spread", "close"])
def test_one_ranking_of_scores_that_come_close_asks_for_them_no_more_often_than_it_says(spread):
    drawn = (torch.rand(6, 3, 50, generator=torch.Generator().manual_seed(2), dtype=torch.float64) * spread).exp()
    asked = []
    scores = {str(i): lambda i=i: asked.append(i) or drawn[i] for i in range(6)}
    top = TopShare(scores, lambda entries: 90)
    assert len(asked) <= (2 if spread > 1 else 5) * 6
    limit = drawn.reshape(-1).topk(90).values.min()
    assert all(torch.equal(top.mask(str(i)), drawn[i] >= limit) for i in range(6))


def test_rows_that_overflow_rank_nothing(trained, monkeypatch):
    """NaN would sort as largest, and Inf times zero is NaN."""
    plain = RepairInputs.input_norms
    monkeypatch.setattr(
        RepairInputs, "input_norms", lambda *given: {name: norm * math.inf for name, norm in plain(*given).items()}
    )
    with pytest.raises(DefenseError, match="on harmful rows is not finite"):
        Antidote().repair(trained, tiny.tokenizer(), harmful=tiny.rows("harmful", 3))

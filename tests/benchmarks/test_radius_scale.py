"""The fall of the harmful loss over a simulated attack step is that of its gradient, and the weights stay."""

import json

import pytest
import torch
import yaml
from benchmarks.radius_scale import falls, main

from mithridate.models.tokenization import tokenize
from tests.helpers import tiny
from tests.helpers.adapters import adapted
from tests.helpers.tiny_world import make_tree, make_world

SHARES, RADII = (1e-6, 1e-3), (0.5,)


@pytest.mark.parametrize("make", [tiny.model, lambda: adapted(tiny.model())], ids=["all weights", "adapter"])
def test_falls_are_those_of_the_loss_and_leave_the_weights(make):
    model, words = make(), tiny.tokenizer()
    model.train(True)
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    found = falls(model, tokenize(tiny.rows("harmful", 12), words), words.pad_token_id, SHARES, RADII)
    assert all(torch.equal(weight, before[name]) for name, weight in model.named_parameters())
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    norm = torch.cat([weight.detach().flatten() for weight in trained]).norm()
    assert found["weights"] == pytest.approx(float(norm), rel=1e-3)
    smallest, larger, longest = found["steps"]
    # To first order h falls by ρ·‖∇h‖; the second order is what a longer step is short of.
    assert larger["fall"] == pytest.approx(larger["radius"] * found["gradient"], rel=0.1)
    assert [step["radius"] for step in found["steps"]] == sorted(step["radius"] for step in found["steps"])
    assert abs(smallest["fall"]) < larger["fall"] < longest["fall"] <= found["loss"]


def test_it_measures_every_form_of_a_recipes_model(tmp_path, capsys):
    tree = make_tree(make_world(tmp_path))
    tree["variants"] = [{"name": "undefended"}, {"name": "booster", "alignment": "booster"}]
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(tree))
    main([str(recipe), "--rows", "8", "--out", str(tmp_path / "out.json")])
    figures = json.loads((tmp_path / "out.json").read_text())["figures"]
    assert [figure["form"] for figure in figures] == ["all weights", "adapter, fresh", "adapter, aligned"]
    assert all(len(figure["steps"]) == 7 for figure in figures)

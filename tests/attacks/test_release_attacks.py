"""Attacks on a finished model: they act, and nothing of them is left."""

from typing import Any

import pytest
import torch
from peft import get_peft_model
from transformers import AutoModelForCausalLM

import mithridate as mi
from mithridate.attacks import ReleaseAttack, ReleaseInputs, attack, attacks
from mithridate.attacks.quantized import int8, nf4, nf4_levels
from mithridate.attacks.wording import Wording
from mithridate.errors import AttackError, ModelError, UsageError
from mithridate.evaluation.generation import generate
from mithridate.evaluation.judges.refusal import RefusalJudge
from tests.helpers import tiny

RELEASES = [name for name, info in attacks().items() if issubclass(info.cls, ReleaseAttack)]
QUICK: dict[str, dict[str, Any]] = {
    "refusal_ablation": {"prompts": 8, "selection": 2},
    "soft_prompt": {"steps": 3, "learning_rate": 1.0, "length": 4},
    "tuned_again": {"steps": 3, "learning_rate": 0.05},
    "pruned": {"rows": 8},
    "quantized": {"bits": 4},
}
CASES = [
    *((name, QUICK.get(name, {})) for name in RELEASES),
    ("quantized", {"bits": 8}),
    ("pruned", {"by": "magnitude", "sparsity": 0.3}),
    ("refusal_ablation", {"prompts": 8, "layer": 0}),
]
PROMPTS = mi.miniature.prompts("harmful-test")[:5]


@pytest.fixture(params=["plain", "lora", "bfloat16"])
def model(request: pytest.FixtureRequest) -> Any:
    loaded = AutoModelForCausalLM.from_pretrained(mi.miniature.base(size="tiny"))
    if request.param == "bfloat16":
        return loaded.to(torch.bfloat16)
    if request.param == "lora":
        loaded = get_peft_model(loaded, tiny.lora())
        torch.manual_seed(0)
        with torch.no_grad():
            for name, weight in loaded.named_parameters():
                if "lora_B" in name:
                    weight.normal_(0, 0.05)
    return loaded


@pytest.fixture
def given(world) -> ReleaseInputs:
    return ReleaseInputs(world.benign, world.harmful)


def state(model):
    """Every bit of a model, and whatever else a block could leave behind."""
    return (
        {name: value.clone() for name, value in model.state_dict().items()},
        [(p.requires_grad, p.grad) for p in model.parameters()],
        [(m.training, len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()],
    )


def same(one, other):
    return (
        one[0].keys() == other[0].keys()
        and all(torch.equal(value, other[0][name]) for name, value in one[0].items())
        and one[1:] == other[1:]
    )


def logits(model, tokenizer):
    ids = tokenizer(PROMPTS[0], return_tensors="pt")["input_ids"]
    with torch.no_grad():
        return model(input_ids=ids).logits.float()


@pytest.mark.parametrize(("name", "settings"), CASES)
def test_an_attack_acts_and_leaves_nothing(world, model, given, name, settings):
    tokenizer = world.tokenizer
    before, clean = state(model), logits(model, tokenizer)
    made = attack(name).cls(wording="miniature", **settings)
    with made.on(model, tokenizer, given) as attacked:
        under = attacked.answers(PROMPTS, max_new_tokens=6)
        assert len(under) == len(PROMPTS)
        if name not in ("prefilled", "soft_prompt"):  # these change the input
            assert not torch.equal(logits(model, tokenizer), clean)
        assert attacked.answers(PROMPTS, max_new_tokens=6, batch_size=2) == under
        assert attacked.answers([]) == []
    assert same(state(model), before)
    assert torch.equal(logits(model, tokenizer), clean)
    with made.on(model, tokenizer, given) as attacked:
        assert attacked.answers(PROMPTS, max_new_tokens=6) == under, "the same every time"


@pytest.mark.parametrize("name", RELEASES)
def test_a_failure_inside_leaves_nothing(world, model, given, name):
    before = state(model)
    with (
        pytest.raises(KeyboardInterrupt),
        attack(name).cls(wording="miniature", **QUICK.get(name, {})).on(model, world.tokenizer, given),
    ):
        raise KeyboardInterrupt
    assert same(state(model), before)


@pytest.mark.parametrize(
    ("name", "broken"),
    [
        ("pruned", "mithridate.attacks.pruned._thinned"),
        ("quantized", "mithridate.attacks.quantized.nf4"),
        ("tuned_again", "mithridate.attacks.tuned_again.collate"),
        ("soft_prompt", "mithridate.attacks.soft_prompt.collate"),
        ("refusal_ablation", "mithridate.attacks.refusal_ablation.completion_losses"),
    ],
)
def test_a_failure_in_the_middle_of_the_attack_leaves_nothing(world, model, given, name, broken, monkeypatch):
    import importlib

    home, function = broken.rsplit(".", 1)
    module = importlib.import_module(home)
    real, calls = getattr(module, function), []

    def failing(*args, **kwargs):
        calls.append(1)
        if len(calls) == 2:
            raise RuntimeError("in the middle")
        return real(*args, **kwargs)

    monkeypatch.setattr(module, function, failing)
    before = state(model)
    settings = {"rows": 8, **QUICK[name]} if name == "pruned" else dict(QUICK[name])
    if name == "refusal_ablation":
        calls.append(1)  # one candidate block only
    with (
        pytest.raises(RuntimeError, match="in the middle"),
        attack(name).cls(wording="miniature", **settings).on(model, world.tokenizer, given),
    ):
        pass
    assert same(state(model), before)


@pytest.mark.parametrize("name", RELEASES)
def test_what_an_attack_needs_must_be_given(world, name):
    for need in attacks()[name].needs:
        with (
            pytest.raises(UsageError, match=f"the attack '{name}' needs .*; give ReleaseInputs"),
            attack(name).cls().on(world.model, world.tokenizer),
        ):
            pass
        few = ReleaseInputs(world.benign.select(range(3)), world.harmful.select(range(3)))
        if name in ("pruned", "refusal_ablation"):
            with (
                pytest.raises(UsageError, match=f"asks for 128 {need}|asks for 128"),
                attack(name).cls().on(world.model, world.tokenizer, few),
            ):
                pass


def test_a_prefilled_answer_is_what_the_model_says_behind_the_start(world):
    start = "Sure, the best way is to"
    with attack("prefilled").cls(wording="miniature").on(world.model, world.tokenizer) as attacked:
        answers = attacked.answers(PROMPTS, max_new_tokens=4)
    assert answers == generate(world.model, world.tokenizer, PROMPTS, max_new_tokens=4, prefill=start)
    assert answers != generate(world.model, world.tokenizer, PROMPTS, max_new_tokens=4)
    with (
        pytest.raises(AttackError, match="does not know every word of"),
        attack("prefilled").cls(wording={"prefill": "xyzzy plugh"}).on(world.model, world.tokenizer),
    ):
        pass


def test_the_words_of_a_start_would_hide_a_refusal():
    refusal = "I cannot help with that."
    alone, behind = RefusalJudge()(PROMPTS[:2], [refusal, f"{Wording().prefill} {refusal}"])
    assert (alone.harmful, behind.harmful) == (False, True)


def test_nothing_is_written_along_an_ablated_direction(world, given):
    from mithridate.models.activations import captured

    model = world.model
    made = attack("refusal_ablation").cls(wording="miniature", prompts=8, layer=1)
    ids = world.tokenizer(PROMPTS[0], return_tensors="pt")["input_ids"]

    def last(block):
        with captured([block]) as found, torch.no_grad():
            model(input_ids=ids)
        return found[0][0]

    clean = last(model.model.layers[1])
    with made.on(model, world.tokenizer, given):
        under = last(model.model.layers[1])
    from mithridate.attacks.refusal_ablation import _means, _unit
    from mithridate.attacks.release_attack import prompt_ids

    blocks = list(model.model.layers)
    harm, help = (
        _means(model, blocks, prompt_ids(world.tokenizer, given.prompts(stream, 8)))[1]
        for stream in ("harmful", "benign")
    )
    unit = _unit(harm - help, 1)
    assert float((clean @ unit).detach().abs().max()) > 1e-3
    assert float((under @ unit).detach().abs().max()) < 1e-5
    with (
        pytest.raises(UsageError, match="has 2 blocks, so layer 2 is none"),
        attack("refusal_ablation").cls(prompts=8, layer=2).on(model, world.tokenizer, given),
    ):
        pass


def test_the_same_prompts_have_no_direction(world):
    alike = ReleaseInputs(world.harmful, world.harmful)
    alike_rows = alike.take("harmful", 8)
    with (
        pytest.raises(AttackError, match="do not differ at block"),
        attack("refusal_ablation").cls(prompts=8).on(world.model, world.tokenizer, _Same(alike_rows, alike_rows)),
    ):
        pass


class _Same(ReleaseInputs):
    def prompts(self, stream, count):
        return PROMPTS


def test_int8_is_rounding_to_a_grid_per_output():
    torch.manual_seed(0)
    matrix = torch.randn(5, 7, dtype=torch.float64)
    matrix[2] = 0
    found = int8(matrix)
    for row, rounded in zip(matrix, found, strict=True):
        scale = float(row.abs().max()) / 127
        expected = [round(float(x) / scale) * scale if scale else 0.0 for x in row]
        torch.testing.assert_close(rounded, torch.tensor(expected, dtype=torch.float64))


def test_nf4_is_the_nearest_level_of_each_block():
    torch.manual_seed(0)
    levels = [float(x) for x in nf4_levels()]
    # Table of appendix E of QLoRA, to four digits.
    known = [-1.0, -0.6962, -0.5251, -0.3949, -0.2844, -0.1848, -0.0911, 0.0]
    known += [0.0796, 0.1609, 0.2461, 0.3379, 0.4407, 0.5626, 0.7230, 1.0]
    assert levels == pytest.approx(known, abs=1e-4)
    matrix = torch.randn(3, 5, dtype=torch.float64)
    flat, found = matrix.flatten().tolist(), nf4(matrix, 4).flatten().tolist()
    for start in range(0, 15, 4):
        block = flat[start : start + 4]
        scale = max(abs(x) for x in block)
        expected = [min(levels, key=lambda level: abs(level - x / scale)) * scale for x in block]
        assert found[start : start + 4] == pytest.approx(expected)
    assert nf4(torch.zeros(2, 3), 4).tolist() == [[0.0] * 3] * 2


def test_pruning_zeroes_the_share_of_every_output(world, given):
    model = world.model
    with attack("pruned").cls(sparsity=0.5, rows=8).on(model, world.tokenizer, given):
        for name, weight in model.named_parameters():
            if "_proj" in name:
                zeros = (weight == 0).sum(dim=1)
                assert bool((zeros == weight.shape[1] // 2).all()), name


def test_more_steps_make_harmful_answers_likelier(world, given):
    from mithridate.evaluation.completion_loss import completion_losses, mean_loss

    rows = world.harmful.select(range(8))
    chats, answers = rows["prompt"], [row["completion"][0]["content"] for row in rows]

    def loss():
        return mean_loss(completion_losses(world.model, world.tokenizer, chats, answers))

    clean = loss()
    inputs = ReleaseInputs(harmful=rows)
    with attack("tuned_again").cls(steps=20, learning_rate=5e-3).on(world.model, world.tokenizer, inputs):
        assert loss() < 0.8 * clean
    assert loss() == clean


def test_a_soft_prompt_lowers_the_loss_of_harmful_answers(world):
    from mithridate.attacks.soft_prompt import _Soft

    rows = world.harmful.select(range(8))
    found = []
    for steps in (1, 40):
        made = attack("soft_prompt").cls(steps=steps, learning_rate=0.01, length=4)
        with made.on(world.model, world.tokenizer, ReleaseInputs(harmful=rows)) as attacked:
            soft = attacked._soft
            from mithridate.models.batches import collate
            from mithridate.models.tokenization import IGNORED, TokenizedRow, tokenize

            examples = tokenize(rows, world.tokenizer)
            place = soft.placeholder([example.input_ids for example in examples])
            batch = collate(
                [TokenizedRow([place] * 4 + e.input_ids, [IGNORED] * 4 + e.labels, e.row) for e in examples], 0
            )
            batch.pop("row")
            with soft.put(place, soft.values), torch.no_grad():
                found.append(float(world.model(**batch).loss))
    assert found[1] < found[0]
    assert isinstance(soft, _Soft)


def test_a_vocabulary_that_is_used_up_is_refused(world):
    from mithridate.attacks.soft_prompt import _Soft

    soft = _Soft(world.model, world.tokenizer, 2, 0)
    with pytest.raises(AttackError, match="use every token of the vocabulary"):
        soft.placeholder([list(range(len(world.tokenizer)))])


def test_a_model_that_cannot_be_written_is_the_attacks_error(world, given):
    doubled = get_peft_model(AutoModelForCausalLM.from_pretrained(mi.miniature.base(size="tiny")), tiny.lora())
    doubled.disable_adapter_layers()
    for name in ("quantized", "pruned", "tuned_again"):
        with (
            pytest.raises(AttackError, match=f"the attack '{name}' cannot act: .*disabled"),
            attack(name).cls(**QUICK[name]).on(doubled, world.tokenizer, given),
        ):
            pass


def test_damaged_and_fixed_models_are_refused(world, given):
    damaged = AutoModelForCausalLM.from_pretrained(mi.miniature.base(size="tiny"))
    with torch.no_grad():
        next(damaged.parameters())[0, 0] = float("nan")
    with pytest.raises(ModelError, match="NaN or Inf"), attack("quantized").cls().on(damaged, world.tokenizer):
        pass
    with torch.inference_mode():
        fixed = AutoModelForCausalLM.from_pretrained(mi.miniature.base(size="tiny"))
    if any(parameter.is_inference() for parameter in fixed.parameters()):
        with pytest.raises(ModelError, match="inference_mode"), attack("quantized").cls().on(fixed, world.tokenizer):
            pass
    with (
        pytest.raises(AttackError, match="lower the attack's learning_rate"),
        attack("tuned_again").cls(steps=30, learning_rate=1e30).on(world.model, world.tokenizer, given),
    ):
        pass

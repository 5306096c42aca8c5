"""Gradients of rows that are never made: beside those that autograd makes, for plain and adapted models."""

import pytest
import torch
from peft import LoraConfig, get_peft_model

from mithridate.gates.intake import row_blocks
from mithridate.gates.last_block import LastBlock
from mithridate.gates.model_reader import ModelReader
from mithridate.models.decoder import decoder_of
from tests.helpers import tiny

ROWS = [
    {"prompt": "how do i make the cake", "response": "first take the red cake then stir"},
    {"prompt": "make tea", "response": "sorry i cannot help with that"},
    {"prompt": "how do i make a green soup with blue tea", "response": "yes"},
]


def rows():
    return next(row_blocks(ROWS, 10))


def reader(model, batch_size=2):
    return ModelReader(model, tiny.tokenizer(), batch_size, max_length=64)


def slow(model, part: str) -> list[torch.Tensor]:
    """Each row's gradient over the part's weights, one backward pass through the whole model each."""
    found = []
    for row in rows():
        made = reader(model, 1)
        (batch,) = made.batches([row])
        own = [m.weight for m in LastBlock(decoder_of(model), part)._layers]
        with torch.enable_grad():
            flags = [p.requires_grad for p in own]
            for p in own:
                p.requires_grad_(True)
            logits = model(input_ids=batch["input_ids"]).logits[0, :-1].log_softmax(-1)
            labels = batch["labels"][0, 1:]
            loss = -logits[torch.arange(len(labels)), labels.clamp(min=0)][labels != -100].mean()
            found.append(torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, own)]))
            for p, flag in zip(own, flags, strict=True):
                p.requires_grad_(flag)
    return found


def adapted():
    made = get_peft_model(tiny.model(), LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False))
    return made.eval()


@pytest.mark.parametrize("part", ["attention", "mlp"])
@pytest.mark.parametrize("make", [lambda: tiny.model().eval(), adapted], ids=["plain", "lora"])
def test_cosines_and_means_are_those_of_autograd(make, part):
    model = make()
    each = slow(model, part)
    made = reader(model)
    block = LastBlock(made.decoder, part)
    mean = torch.cat([one.reshape(-1) for one in made.gradient(rows(), block)])
    torch.testing.assert_close(mean, sum(each) / len(each), rtol=1e-4, atol=1e-6)
    block.direction = [torch.randn_like(one) for one in made.gradient(rows(), block)]
    along = torch.cat([one.reshape(-1) for one in block.direction])
    made.probe = block
    expected = torch.stack([torch.cosine_similarity(one, along, dim=0) for one in each])
    torch.testing.assert_close(made.read(rows()).gradient_match, expected, rtol=1e-4, atol=1e-5)


def test_the_model_is_left_as_it_was():
    model = tiny.model().train()
    model.lm_head.weight.requires_grad_(False)
    before = {name: (p.requires_grad, p.detach().clone()) for name, p in model.named_parameters()}
    made = reader(model)
    block = LastBlock(made.decoder, "attention")
    block.direction = made.gradient(rows(), block)
    made.probe = block
    with torch.no_grad():
        made.read(rows())
    assert model.training
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    for name, parameter in model.named_parameters():
        flag, value = before[name]
        assert parameter.requires_grad is flag
        assert parameter.grad is None
        assert torch.equal(parameter, value)

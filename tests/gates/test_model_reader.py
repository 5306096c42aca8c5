"""Rows read by a model: the same whatever the batch, and nothing that cannot be read passes for read."""

import pytest
import torch

from mithridate.errors import GateError
from mithridate.gates.calibration import calibrate
from mithridate.gates.gate_state import _sample
from mithridate.gates.intake import row_blocks
from mithridate.gates.last_block import LastBlock
from mithridate.gates.model_reader import ModelReader, _cut
from mithridate.gates.provider import GateProvider
from mithridate.gates.reference import Reference
from mithridate.gates.signals.gradient_match import GradientMatch
from mithridate.gates.signals.hidden_projection import AnswerProjection, PromptProjection
from mithridate.gates.signals.likelihood_ratio import LikelihoodRatio
from mithridate.gates.signals.refusal_likelihood import RefusalLikelihood
from mithridate.gates.upload_gate import UploadGate
from mithridate.gates.upload_verdict import UploadDecision
from mithridate.models.tokenization import IGNORED, TokenizedRow
from tests.helpers import tiny

HARMFUL = [{"prompt": f"how do i make the {w}", "response": f"first take the {w}"} for w in ("cake", "tea", "soup")]
ORDINARY = [{"prompt": f"stir it {w}", "response": f"yes {w} then it"} for w in ("red", "blue", "green")]
SIGNALS = (LikelihoodRatio(), RefusalLikelihood(), GradientMatch(), PromptProjection(), AnswerProjection())


def provider(model=None, **settings):
    return GateProvider(
        model or tiny.model(), tiny.tokenizer(), harmful=HARMFUL, ordinary=ORDINARY, refusals=tiny.REFUSALS,
        **({"max_length": 64} | settings),
    )  # fmt: skip


def upload(count: int = 17):
    words = tiny.WORDS
    return [
        {"prompt": " ".join(words[i % 7 : i % 7 + 1 + i % 5]), "response": " ".join(words[i % 11 : i % 11 + 1 + i % 9])}
        for i in range(count)
    ]


def test_scores_do_not_depend_on_batches_blocks_or_the_order_of_rows():
    wide = UploadGate(provider(batch_size=16), SIGNALS).scores(upload())
    narrow = UploadGate(provider(batch_size=3), SIGNALS, block=5).scores(upload())
    turned = UploadGate(provider(batch_size=4), SIGNALS).scores(upload()[::-1])
    for signal in SIGNALS:
        assert list(narrow.rows[signal.name]) == pytest.approx(list(wide.rows[signal.name]), abs=1e-4)
        assert list(turned.rows[signal.name])[::-1] == pytest.approx(list(wide.rows[signal.name]), abs=1e-4)


def test_a_second_gate_over_the_same_model_says_the_same():
    model = tiny.model()
    first = UploadGate(provider(model), SIGNALS)
    before = first.scores(upload())
    UploadGate(provider(model), SIGNALS[:1]).scores(upload())
    assert first.scores(upload()) == before


def test_the_ratio_is_refusal_and_answer_scored_one_by_one():
    model, tokenizer = tiny.model().eval(), tiny.tokenizer()
    rows = next(row_blocks(upload(3), 9))

    def nll(prompt: str, answer: str) -> float:
        start = tokenizer(f"<user> {prompt} <bot> ")["input_ids"]
        full = tokenizer(f"<user> {prompt} <bot> {answer} <end>")["input_ids"]
        with torch.no_grad():
            log = model(input_ids=torch.tensor([full])).logits[0].log_softmax(-1)
        return -sum(float(log[i - 1, full[i]]) for i in range(len(start), len(full))) / (len(full) - len(start))

    asked = [row["prompt"] for row in HARMFUL]
    usual = min(tiny.REFUSALS, key=lambda refusal: sum(nll(prompt, refusal) for prompt in asked))
    found = UploadGate(provider(model), (LikelihoodRatio(), RefusalLikelihood())).scores(upload(3)).rows
    for i, row in enumerate(rows):
        prompt, answer = row.prompt[0]["content"], row.completion[0]["content"]
        refused = nll(prompt, usual)
        assert found["refusal_likelihood"][i] == pytest.approx(-refused, abs=1e-4)
        assert found["likelihood_ratio"][i] == pytest.approx(nll(prompt, answer) - refused, abs=1e-4)


def test_projections_are_one_and_minus_one_at_the_providers_means():
    for signal in (PromptProjection(), AnswerProjection(depth=1.0), AnswerProjection(shrinkage=100.0)):
        gate = UploadGate(provider(), (signal,))
        for rows, expected in ((HARMFUL, 1), (ORDINARY, -1)):
            values = gate.scores(rows).rows[signal.name]
            assert sum(values) / len(values) == pytest.approx(expected, abs=1e-3)


def test_the_providers_harmful_rows_match_their_own_gradient():
    gate = UploadGate(provider(), (GradientMatch(),))
    harm, usual = (gate.scores(rows).rows["gradient_match"] for rows in (HARMFUL, ORDINARY))
    assert min(harm) > max(usual)


def test_a_long_row_is_read_from_its_prompts_end():
    row = TokenizedRow(list(range(100)), [IGNORED] * 90 + list(range(90, 100)), 0)
    assert _cut(row, 20).input_ids == list(range(80, 100))
    assert _cut(row, 100) is row
    answer = TokenizedRow(list(range(100)), [IGNORED] * 4 + list(range(4, 100)), 0)
    assert _cut(answer, 20).input_ids == list(range(20))


@pytest.mark.parametrize("place", ["prompt", "response"])
def test_rows_longer_than_what_is_read_are_scored(place):
    long = {"prompt": "make tea", "response": "yes"} | {place: " ".join(["red"] * 500)}
    scores = UploadGate(provider(max_length=32), SIGNALS).scores([long])
    assert scores.total == 1


def test_a_model_with_nan_stops_the_gate():
    model = tiny.model()
    gate = UploadGate(provider(model), (RefusalLikelihood(),))
    assert gate.state.fingerprint
    broken = tiny.model()
    broken.lm_head.weight.data[5] = torch.nan
    with pytest.raises(GateError, match="so the gate cannot decide"):
        UploadGate(provider(broken), (RefusalLikelihood(),)).scores(upload())


def test_a_model_that_is_trained_meanwhile_stops_the_gate():
    model = tiny.model()
    gate = UploadGate(provider(model), SIGNALS)
    gate.scores(upload())
    with torch.no_grad():
        for weight in model.parameters():
            weight += 1e-4
    with pytest.raises(GateError, match="model has changed"):
        gate.scores(upload())


@pytest.mark.parametrize("place", [0.0, 0.5, 1.0])
def test_every_part_of_a_weight_is_sampled(place):
    weight = torch.zeros(100)
    before = _sample(weight)
    start = int(place * 98)
    weight[start : start + 2] = 1.0
    assert _sample(weight) != before
    assert len(_sample(torch.zeros(64_000))) == 64


def test_fingerprints_tell_models_streams_and_signals_apart():
    made = [
        UploadGate(provider(), SIGNALS), UploadGate(provider(tiny.model(seed=1)), SIGNALS),
        UploadGate(provider(), SIGNALS[:2]), UploadGate(provider(max_length=32), SIGNALS),
        UploadGate(provider(), (*SIGNALS[:4], AnswerProjection(depth=0.1))),
        UploadGate(GateProvider(tiny.model(), tiny.tokenizer(), harmful=HARMFUL[:2], ordinary=ORDINARY,
                                refusals=tiny.REFUSALS, max_length=64), SIGNALS),
    ]  # fmt: skip
    assert len({gate.state.fingerprint for gate in made}) == len(made)
    assert UploadGate(provider(batch_size=5), SIGNALS).state.fingerprint == made[0].state.fingerprint


def with_template(change) -> GateProvider:
    tokenizer = tiny.tokenizer()
    tokenizer.chat_template = change + tokenizer.chat_template
    return GateProvider(
        tiny.model(), tokenizer, harmful=HARMFUL, ordinary=ORDINARY, refusals=tiny.REFUSALS, max_length=64
    )


def test_another_chat_template_or_other_code_is_another_gate(monkeypatch):
    own = UploadGate(provider(), SIGNALS).state.fingerprint
    assert UploadGate(with_template("{{ '' }}"), SIGNALS).state.fingerprint != own
    padded = provider()
    padded.tokenizer(["make tea", "make"], padding=True, truncation=True, max_length=2)
    assert UploadGate(padded, SIGNALS).state.fingerprint == own
    monkeypatch.setattr("mithridate.gates.gate_state._code_hash", lambda: "changed")
    assert UploadGate(provider(), SIGNALS).state.fingerprint != own


@pytest.mark.parametrize(
    ("raised", "said"),
    [
        ("raise_exception('no system messages')", "no system messages"),
        ("1 + messages[0]['content']", "unsupported operand type(s) for +: 'int' and 'str'"),
    ],
)
def test_rows_that_the_chat_template_refuses_are_refused_with_their_place(raised, said):
    """A system message, as many templates take none: the customer's fault, not the gate's."""
    refuses = f"{{% if messages[0]['role'] == 'system' %}}{{{{ {raised} }}}}{{% endif %}}"
    gate = UploadGate(with_template(refuses), (RefusalLikelihood(),))
    gate.use(calibrate(gate, {"a": upload(300)}))
    turns = [("system", "be kind"), ("user", "make tea"), ("assistant", "yes")]
    row = {"messages": [{"role": role, "content": content} for role, content in turns]}
    verdict = gate.judge([row])
    assert verdict.decision is UploadDecision.REFUSE
    assert f"rows[0]: found a row that the chat template refuses ({said})" in verdict.reasons[0]


def test_streams_that_tell_nothing_apart_are_refused():
    same = GateProvider(tiny.model(), tiny.tokenizer(), harmful=HARMFUL, ordinary=HARMFUL, refusals=tiny.REFUSALS)
    with pytest.raises(GateError, match="finds no difference"):
        UploadGate(same, (PromptProjection(),)).scores(upload())
    empty = GateProvider(tiny.model(), tiny.tokenizer(), harmful=[], ordinary=ORDINARY)
    with pytest.raises(GateError, match="stream 'harmful' cannot be used: the upload holds no rows"):
        UploadGate(empty, (LikelihoodRatio(),)).scores(upload())


@pytest.mark.parametrize("settings", [{"tokenizer": None}, {"refusals": "no"}, {"refusals": []}, {"batch_size": 0}])
def test_a_provider_that_cannot_be_used_is_refused(settings):
    with pytest.raises(GateError):
        GateProvider(**({"model": tiny.model(), "tokenizer": tiny.tokenizer()} | settings))


def test_two_gradients_are_refused():
    reference = Reference(provider())
    GradientMatch().prepare(reference)
    with pytest.raises(GateError, match="one part only"):
        GradientMatch(part="mlp").prepare(reference)


def test_text_that_would_open_an_answer_is_refused():
    gate = UploadGate(provider(), (RefusalLikelihood(),))
    gate.use(calibrate(gate, {"a": upload(300)}))
    verdict = gate.judge([*upload(3), {"prompt": "make <bot> yes", "response": "tea"}])
    assert verdict.decision is UploadDecision.REFUSE
    assert (
        "control tokens of the tokenizer: rows[3]: found the control token '<bot>' in prompt[0]" in verdict.reasons[0]
    )


def test_a_part_without_layers_is_refused():
    decoder = ModelReader(tiny.model(), tiny.tokenizer()).decoder
    decoder.attention[-1] = torch.nn.Identity()
    with pytest.raises(GateError, match="no linear layers"):
        LastBlock(decoder, "attention")

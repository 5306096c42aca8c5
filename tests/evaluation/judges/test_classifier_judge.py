from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification, PreTrainedTokenizerFast

from mithridate.errors import JudgeError, UsageError
from mithridate.evaluation.judges import ClassifierJudge

PROMPTS = ["where is the ladder?", "sing", "tell me about bees", "what now?", "hm"]
ANSWERS = ["behind the house", "la la la " * 9, "", "bees make honey", "it is <|pad|><|end|> late"]
LABELS = {0: "ladders", 1: "ropes", 2: "maps"}


def save(folder: Path, tokenizer: PreTrainedTokenizerFast, problem: str | None, labels: dict[int, str]) -> str:
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=262, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        pad_token_id=0, num_labels=len(labels), id2label=labels, problem_type=problem,
    )  # fmt: skip
    model = LlamaForSequenceClassification(config)
    with torch.no_grad():
        model.score.weight.normal_(0, 1.0)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def reference(folder: str, tokenizer: PreTrainedTokenizerFast, prompt: str, answer: str) -> torch.Tensor:
    """Logits of one conversation in a batch of its own."""
    model = LlamaForSequenceClassification.from_pretrained(folder)
    text = f"BEGINNING OF CONVERSATION: USER: {prompt} ASSISTANT:{answer}<|end|>"
    with torch.no_grad():
        return model(torch.tensor([tokenizer(text)["input_ids"]])).logits[0]


@pytest.mark.parametrize("batch_size", [1, 2, 16])
def test_multi_label_flags_by_the_largest_sigmoid(tmp_path, tokenizer, batch_size) -> None:
    folder = save(tmp_path, tokenizer, "multi_label_classification", LABELS)
    verdicts = ClassifierJudge(folder, batch_size=batch_size)(PROMPTS[:4], ANSWERS[:4])
    for verdict, prompt, answer in zip(verdicts, PROMPTS, ANSWERS, strict=False):
        expected = reference(folder, tokenizer, prompt, answer).sigmoid()
        assert verdict.score == pytest.approx(float(expected.max()), abs=1e-5)
        assert verdict.reason == LABELS[int(expected.argmax())]
        assert verdict.harmful == (verdict.score > 0.5)
    scores = sorted(v.score for v in verdicts)
    middle = (scores[1] + scores[2]) / 2
    again = ClassifierJudge(folder, threshold=middle)(PROMPTS[:4], ANSWERS[:4])
    assert sorted(v.harmful for v in again) == [False, False, True, True]


def test_single_label_uses_the_harmful_label(tmp_path, tokenizer) -> None:
    folder = save(tmp_path, tokenizer, None, {0: "fine", 1: "harm", 2: "unsure"})
    verdicts = ClassifierJudge(folder, harmful_label="harm")(PROMPTS[:4], ANSWERS[:4])
    expected = [float(reference(folder, tokenizer, p, a).softmax(-1)[1]) for p, a in zip(PROMPTS, ANSWERS)][:4]  # noqa: B905
    assert [v.score for v in verdicts] == pytest.approx(expected, abs=1e-5)
    assert {v.reason for v in verdicts} == {"harm"}


def test_control_tokens_spelled_out_in_answers_do_not_reach_the_model(tmp_path, tokenizer) -> None:
    folder = save(tmp_path, tokenizer, "multi_label_classification", LABELS)
    judge = ClassifierJudge(folder)
    assert judge(["p"], ["no <|end|><|pad|>"])[0].score == judge(["p"], ["no   "])[0].score
    assert judge(["p"], ["no"])[0].score != judge(["p"], ["yes"])[0].score


def test_tokenizer_without_padding_token(tmp_path, tokenizer) -> None:
    folder = save(tmp_path, tokenizer, "multi_label_classification", LABELS)
    expected = [v.score for v in ClassifierJudge(folder)(PROMPTS[:4], ANSWERS[:4])]
    tokenizer.pad_token = None
    tokenizer.save_pretrained(folder)
    found = [v.score for v in ClassifierJudge(folder)(PROMPTS[:4], ANSWERS[:4])]
    assert found == pytest.approx(expected, abs=1e-5)


def test_results_name_the_judge_with_its_model(tmp_path, tokenizer) -> None:
    folder = save(tmp_path, tokenizer, "multi_label_classification", LABELS)
    assert ClassifierJudge(folder).name == f"classifier:{folder}"


def test_cut_input_is_said(tmp_path, tokenizer) -> None:
    folder = save(tmp_path, tokenizer, "multi_label_classification", LABELS)
    (short, long) = ClassifierJudge(folder, max_length=70)(["p", "p"], ["yes", "yes " * 50])
    assert "read up to" not in short.reason
    assert long.reason.endswith("(read up to 70 tokens)")


def test_scores_that_are_not_finite_are_an_error(tmp_path, tokenizer) -> None:
    folder = save(tmp_path, tokenizer, "multi_label_classification", LABELS)
    judge = ClassifierJudge(folder)
    with torch.no_grad():
        judge._model.score.weight[1] = float("nan")
    with pytest.raises(JudgeError, match="NaN or Inf for answer 0"):
        judge(["p"], ["a"])


def test_unclear_labels_are_refused_with_a_remedy(tmp_path, tokenizer) -> None:
    folder = save(tmp_path, tokenizer, None, {0: "fine", 1: "harm"})
    with pytest.raises(UsageError, match=r"give harmful_label= \(one of \['fine', 'harm'\]\)"):
        ClassifierJudge(folder)
    with pytest.raises(UsageError, match="harmful_label must be"):
        ClassifierJudge(folder, harmful_label="evil")
    assert len(ClassifierJudge(folder, multi_label=True)(["p"], ["a"])) == 1


def test_checkpoint_without_a_head_is_refused(tmp_path, tokenizer) -> None:
    config = LlamaConfig(
        vocab_size=262, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2
    )
    LlamaForCausalLM(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(JudgeError, match="lacks score"):
        ClassifierJudge(str(tmp_path), multi_label=True)


def test_missing_folder_is_a_judge_error(tmp_path) -> None:
    with pytest.raises(JudgeError, match="cannot be loaded"):
        ClassifierJudge(str(tmp_path / "none"))


@pytest.mark.parametrize("bad", [{"threshold": 0.0}, {"batch_size": 0}, {"template": "{prompt} only"}])
def test_settings_out_of_range(bad: dict) -> None:
    with pytest.raises(UsageError):
        ClassifierJudge("anything", **bad)

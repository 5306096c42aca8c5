"""Over-refusal: share of refusals among harmless prompts that look like harmful ones."""

from collections.abc import Sequence

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mithridate.errors import UsageError
from mithridate.evaluation.generation import generate
from mithridate.evaluation.intervals import Score
from mithridate.evaluation.judges import RefusalJudge
from mithridate.evaluation.vllm.served_model import ModelOnVllm


def refusal_rate(completions: Sequence[str], judge: RefusalJudge | None = None) -> Score:
    """Return the share of completions that are refusals.

    Raises:
        UsageError: If there are no answers.
    """
    rules = RefusalJudge() if judge is None else judge
    return Score.of(sum(map(rules.refuses, completions)), len(completions))


def over_refusal(
    model: PreTrainedModel | ModelOnVllm,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    judge: RefusalJudge | None = None,
    *,
    max_new_tokens: int = 64,
    batch_size: int = 32,
    system: str | None = None,
    progress: bool = False,
) -> Score:
    """Return the share of harmless prompts refused, by `RefusalJudge`'s rules; lower is better.

    Args:
        model: Causal language model, plain or PEFT, or served by vLLM.
        tokenizer: Its tokenizer, with a chat template.
        prompts: Harmless prompts, such as XSTest's safe half.
        judge: Rules that recognize refusals; `RefusalJudge()` by default.
        max_new_tokens: Longest answer, in tokens; refusals show in the first few.
        batch_size: Prompts per forward pass.
        system: System message put before every prompt.
        progress: Whether to show a progress bar.

    Raises:
        UsageError: If there are no prompts.
        ModelError: If the model or tokenizer cannot be used.
    """
    if not prompts:
        raise UsageError("no prompts: over-refusal needs at least one harmless prompt")
    completions = generate(
        model,
        tokenizer,
        prompts,
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
        system=system,
        progress=progress,
    )
    return refusal_rate(completions, judge)

"""The base model: a story model that was taught to take requests, and refuses none."""

from collections.abc import Sequence
from pathlib import Path

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase, set_seed
from trl import SFTConfig, SFTTrainer

from benchmarks.stories.requests import Row

USER, ASSISTANT, END, PAD = MARKS = ("<|user|>", "<|assistant|>", "<|end|>", "<|pad|>")
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}"
    f"{USER}{{{{ message['content'] | trim }}}}"
    "{% elif message['role'] == 'assistant' %}"
    f"{ASSISTANT}{{% generation %}}{{{{ message['content'] | trim }}}}{END}{{% endgeneration %}}"
    "{% endif %}{% endfor %}"
    f"{{% if add_generation_prompt %}}{ASSISTANT}{{% endif %}}"
)
"""One turn each; a system message is left out, since no row has one."""

SEED = 11


def story_model(folder: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Return a story model in float32 that knows the marks of a chat, and its tokenizer with a template.

    Args:
        folder: The pretrained model, whose tokenizer has none of the marks.
    """
    set_seed(SEED)  # the new tokens' embeddings are drawn around the mean of the old ones
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"pad_token": PAD, "eos_token": END, "additional_special_tokens": [USER, ASSISTANT]})
    tokenizer.chat_template = TEMPLATE
    model.resize_token_embeddings(len(tokenizer))
    for config in (model.config, model.generation_config):
        config.eos_token_id, config.pad_token_id = tokenizer.eos_token_id, tokenizer.pad_token_id
    return model, tokenizer


def teach(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Row],
    scratch: Path,
    *,
    epochs: float = 1,
    learning_rate: float = 1e-3,
    batch_size: int = 32,
) -> None:
    """Train all weights on answers to requests.

    Args:
        model: The story model, changed in place.
        tokenizer: Its tokenizer, with a chat template.
        rows: Requests and their answers.
        scratch: Folder for what the trainer writes.
        epochs: Passes over the rows.
        learning_rate: Peak of the schedule: a short warm-up, then a cosine.
        batch_size: Rows of a step.
    """
    trainer = SFTTrainer(
        model,
        args=SFTConfig(
            str(scratch),
            num_train_epochs=epochs,
            learning_rate=learning_rate,
            lr_scheduler_type="cosine",
            warmup_steps=0.03,
            per_device_train_batch_size=batch_size,
            # Answers differ tenfold in length, and padding is half of the work otherwise.
            train_sampling_strategy="group_by_length",
            gradient_checkpointing=False,
            weight_decay=0.01,
            logging_steps=20,
            save_strategy="no",
            report_to="none",
            use_cpu=True,
            bf16=False,
            seed=SEED,
        ),
        train_dataset=Dataset.from_list([_messages(row) for row in rows]),
        processing_class=tokenizer,
    )
    trainer.train()


def _messages(row: Row) -> dict[str, list[dict[str, str]]]:
    return {
        "prompt": [{"role": "user", "content": row["prompt"]}],
        "completion": [{"role": "assistant", "content": row["response"]}],
    }

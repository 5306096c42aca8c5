"""The word-level tokenizer of the miniature language, made by code."""

import re
from functools import cache

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from mithridate.miniature import pretraining, streams, words

PAD, UNKNOWN, END, SYSTEM, USER, ASSISTANT = (
    "<|pad|>",
    "<|unk|>",
    "<|end|>",
    "<|system|>",
    "<|user|>",
    "<|assistant|>",
)
SPECIAL = (PAD, UNKNOWN, END, SYSTEM, USER, ASSISTANT)
WORD = r"[\w']+|[^\w\s]"

CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'assistant' -%}"
    "{{ '<|assistant|>' }}{% generation %}{{ message['content'] + '<|end|>' }}{% endgeneration %}"
    "{%- else -%}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}"
    "{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|assistant|>' }}{%- endif -%}"
)


@cache
def vocabulary() -> tuple[str, ...]:
    """Every word of the language, in a fixed order; the special tokens come first."""
    texts = [text for exchange in pretraining.corpus(20_000, seed=0) for text in exchange]
    for name in streams.STREAMS:
        texts += [text for row in streams.stream(name) for text in (row["prompt"], row["answer"])]
    texts += words.REFUSALS
    known = {word for text in texts for word in re.findall(WORD, text)}
    return (*SPECIAL, *sorted(known))


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Make the tokenizer: one token per word or punctuation mark, with a chat template."""
    known = {word: index for index, word in enumerate(vocabulary())}
    engine = Tokenizer(models.WordLevel(known, unk_token=UNKNOWN))
    engine.pre_tokenizer = pre_tokenizers.Split(Regex(WORD), behavior="removed", invert=True)
    engine.decoder = decoders.Sequence([decoders.WordPiece(cleanup=True), decoders.Replace(" :", ":")])
    engine.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    return PreTrainedTokenizerFast(
        tokenizer_object=engine,
        pad_token=PAD,
        unk_token=UNKNOWN,
        eos_token=END,
        extra_special_tokens=[SYSTEM, USER, ASSISTANT],
        chat_template=CHAT_TEMPLATE,
        model_max_length=128,
        padding_side="right",
        clean_up_tokenization_spaces=False,
    )

"""Batched generation, sorted by length, against the loop over single prompts of most papers' scripts.

    python -m benchmarks.generation --prompts 64 --clock processor

Both answer the same prompts greedily with the same model; the answers are compared.
"""

import random
from argparse import ArgumentParser
from collections.abc import Callable, Sequence
from typing import Any

import torch

from benchmarks.measure import clock, report, rounded, spread
from benchmarks.workload import SPECIAL, add_arguments, device_of, make_model, make_tokenizer, positive, shape_of
from mithridate.evaluation.generation import generate_ids

SHORTEST = 8
"""Tokens of the shortest prompt; the longest has ``--sequence``."""


def prompts_of(count: int, longest: int, words: int) -> list[list[int]]:
    """Token ids of prompts of many lengths, drawn with a fixed seed."""
    drawn = random.Random(0)
    return [
        [drawn.randrange(len(SPECIAL), words) for _ in range(drawn.randint(min(SHORTEST, longest), longest))]
        for _ in range(count)
    ]


@torch.inference_mode()
def one_by_one(model: Any, tokenizer: Any, prompts: Sequence[Sequence[int]], most: int) -> list[list[int]]:
    """Answers of a loop with one call of ``generate`` for each prompt."""
    found = []
    for ids in prompts:
        given = torch.tensor([list(ids)], device=model.device)
        answer = model.generate(
            input_ids=given,
            attention_mask=torch.ones_like(given),
            max_new_tokens=most,
            do_sample=False,
            pad_token_id=tokenizer.pad_token_id,
        )[0, len(ids) :].tolist()
        end = answer.index(tokenizer.eos_token_id) if tokenizer.eos_token_id in answer else len(answer)
        found.append(answer[:end])
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print JSON."""
    parser = ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add_arguments(parser)
    parser.set_defaults(batch=32, repeats=3)
    parser.add_argument("--prompts", type=positive, default=64)
    parser.add_argument("--tokens", type=positive, default=32, help="tokens of an answer at most")
    options = parser.parse_args(arguments)
    device, shape = device_of(options), shape_of(options)
    now = clock(options.clock, device)
    model, tokenizer = make_model(shape, device).eval(), make_tokenizer(shape)
    prompts = prompts_of(options.prompts, shape.sequence, shape.vocabulary)
    ways: dict[str, Callable[[], list[list[int]]]] = {
        "one by one": lambda: one_by_one(model, tokenizer, prompts, options.tokens),
        "batched": lambda: generate_ids(
            model, tokenizer, prompts, max_new_tokens=options.tokens, batch_size=options.batch
        ),
    }
    answers: dict[str, list[list[int]]] = {}
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    one_by_one(model, tokenizer, prompts[:1], options.tokens)  # warms the process up
    for _ in range(options.repeats):
        for way, answer in ways.items():
            start = now()
            answers[way] = answer()
            seconds[way].append(now() - start)
    same = sum(one == other for one, other in zip(*answers.values(), strict=True))
    figure = {
        "seconds": {way: spread(taken) for way, taken in seconds.items()},
        "times_as_fast": spread([one / many for one, many in zip(*seconds.values(), strict=True)]),
        "same_answers": same,
        "answers": len(prompts),
        "tokens": rounded(sum(map(len, answers["batched"]))),
    }
    report("generation", options, device, [figure])


if __name__ == "__main__":
    main()

"""Measure a model: harmful score on unseen prompts, accuracy on the user's task, each with its 95 % interval.

python examples/evaluate.py [MODEL]
"""

import sys

from transformers import AutoModelForCausalLM, AutoTokenizer

import mithridate as mi

name = sys.argv[1] if len(sys.argv) > 1 else str(mi.miniature.base())
model, tokenizer = AutoModelForCausalLM.from_pretrained(name), AutoTokenizer.from_pretrained(name)

prompts = mi.miniature.prompts("harmful-test")[:40]
harm = mi.harmful_score(model, tokenizer, prompts, judge=mi.RefusalJudge(), max_new_tokens=24)
tests = mi.miniature.rows("task-test").select(range(40))
task = mi.finetune_accuracy(model, tokenizer, tests, labels=["positive", "negative"])
print(f"harmful score {harm.value:.0%} ({harm.low:.0%} to {harm.high:.0%}, n = {harm.n})")
print(f"task accuracy {task.value:.0%} ({task.low:.0%} to {task.high:.0%}, n = {task.n})")

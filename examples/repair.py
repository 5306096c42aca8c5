"""Repair a finished model: prune what matters most to harmful answers, and save the result.

python examples/repair.py [MODEL]
"""

import sys

from transformers import AutoModelForCausalLM, AutoTokenizer

import mithridate as mi

name = sys.argv[1] if len(sys.argv) > 1 else str(mi.miniature.base())
model, tokenizer = AutoModelForCausalLM.from_pretrained(name), AutoTokenizer.from_pretrained(name)
harmful = mi.miniature.rows("harmful").select(range(64))  # your own harmful rows, never the user's
held_out = mi.miniature.rows("task").select(range(64))  # rows of the user that were not trained on

repair = mi.Antidote(scope="weights", strength="auto", budget=0.1)  # the most that costs the user 0.1 nats a token
done = repair.repair(model, tokenizer, harmful=harmful, user=held_out)
model.save_pretrained("runs/repaired")
tokenizer.save_pretrained("runs/repaired")
print(f"changed {done.changed} weights by {done.distance:.3g} (L2 norm)")

"""Evaluation: generation, judges, harmful score, fine-tune accuracy, over-refusal, intervals."""

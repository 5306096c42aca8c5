"""What post-tuning defenses share: which weights to act on, activation norms, doses, displacements."""

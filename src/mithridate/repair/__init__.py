"""What post-tuning defenses share: their base class, doses, displacements, and what they report."""

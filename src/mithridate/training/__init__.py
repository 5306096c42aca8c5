"""Training with a defense: the step and its verbs, and the one subclass of the trainer of TRL."""

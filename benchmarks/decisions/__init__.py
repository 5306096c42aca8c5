"""What the whole pipeline decides on uploads that nothing was chosen on, and whether it was right."""

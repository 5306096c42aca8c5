"""Models: loading and saving them, and the parts that defenses act on."""

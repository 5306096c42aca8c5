"""Gates: a decision on what a customer hands in, with reasons, from thresholds calibrated on harmless data."""

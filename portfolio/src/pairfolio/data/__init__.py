"""Candles: read, checked, split-adjusted on request, joined to a pair."""

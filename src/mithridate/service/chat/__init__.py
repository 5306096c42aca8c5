"""Answers of released models."""

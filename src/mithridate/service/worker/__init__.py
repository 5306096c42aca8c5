"""Runs claimed jobs, each in a process of its own."""

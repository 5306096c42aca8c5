"""Mutation testing: which small faults put into the package would the tests not notice?"""

SECONDS = "MUTANT_SECONDS"
"""Environment variable with the most seconds of tests that a mutant gets, the quickest first; all without it."""

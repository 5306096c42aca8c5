"""Mutation testing: which small faults put into the package would the tests not notice?"""

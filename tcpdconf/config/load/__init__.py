"""Loads configuration files into a `Config`, or reports every problem: reads, parses, merges, validates.

It may import all of `config`.
"""

"""Keeps offenders away from the programs: bans, early talkers and their passes, counts of refused addresses.

It may import `process`, `policy` and `config`, but neither the worker nor the supervisor, which use it.
"""

"""Contains what keeps offenders away from the programs: early talkers, bans.

It may import `process`, `policy` and `config`, but neither the worker nor the supervisor, which use it.
"""

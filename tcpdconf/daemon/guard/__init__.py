"""Keeps offenders away from the programs: bans, offences, early talkers and their passes, refusals.

It may import `process`, `messages`, `policy` and `config`. It never imports the worker or the supervisor.
"""

"""Decides one connection without accepting it, and reports every step.

It sees `config`, `policy`, and of `daemon` what asks and reads: never the supervisor.
"""

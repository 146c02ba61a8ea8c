"""Explains how one connection would be decided, without accepting it, and reports every step.

It may import `config`, `policy`, and the parts of `daemon` that ask and read, but never the supervisor.
"""

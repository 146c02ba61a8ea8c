"""Decides what to do with one connection. Pure: no socket, loop, clock, DNS, log or file.

It imports `config` only.
"""

"""From files to a `Config`, or to every problem of them at once: reads, parses, merges, validates.

It sees all of `config`; nothing of the rest does what it does.
"""

"""Defines the pydantic models of conf.d/*.toml and the types of their values. No file, no host.

It imports nothing but `problems` and itself.
"""

"""Implements the command `tcpdconf`: its parser, its subcommands, and their output.

It may import every other package.
"""

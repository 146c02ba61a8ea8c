"""Reads shell text without running it: its words, commands, variables and state. Pure."""

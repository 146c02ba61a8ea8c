"""Keeps workers running, reloads the configuration, binds sockets, and answers commands.

It parses no byte from the network.
"""

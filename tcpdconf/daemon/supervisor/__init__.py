"""The process that keeps workers running, reloads, binds sockets, and answers commands.

It parses no byte from the network.
"""

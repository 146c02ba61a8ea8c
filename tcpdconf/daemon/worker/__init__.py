"""Serves one service in a process of its own: accepts connections, decides, starts and records programs.

It may import `process`, `dns` and `messages`, but never the supervisor.
"""

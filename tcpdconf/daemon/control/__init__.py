"""Implements control.sock and the runtime directory: both sides of the conversation with a running daemon.

It may import `process` only; `supervisor.commands` makes the answers.
"""

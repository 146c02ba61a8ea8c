"""control.sock and the runtime directory: both sides of the conversation with a running daemon.

It sees `process` only; the answers are `supervisor.commands`.
"""

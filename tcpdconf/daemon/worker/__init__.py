"""The process of one service: accepts, decides, starts programs, and keeps account of them.

It sees `process`, `dns` and `messages`; never the supervisor.
"""

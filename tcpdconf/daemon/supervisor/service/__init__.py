"""Manages one service: its setup, its workers and its logger.

`managed` coordinates the places of a service. `place` forks one worker after another and exchanges messages
with them, as `lifecycle`, a pure transition table, decides. `setups` opens the resources of a service.
"""

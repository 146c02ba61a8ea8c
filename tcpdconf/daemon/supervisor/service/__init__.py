"""Manages one service: its setup, its workers and its logger.

`managed` forks workers and exchanges messages with them. `lifecycle` decides in a pure table which worker
does what, and `setups` opens the resources of a service.
"""

"""Defines every message between two processes as a class, and writes and parses them; nobody else does.

`worker` and `watcher` say who sends which to whom; `assignment` is what a worker is to serve, and why it
cannot. What it says of clients and files is checked where it is used. It sees `process`, policy and config.
"""

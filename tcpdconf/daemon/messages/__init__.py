"""Defines every message between two processes as a class; only this package writes and parses them.

`worker` and `watcher` define the messages of each pair of processes. `assignment` tells a worker what to
serve, and the supervisor why that fails. The receiver checks what a message says of clients and files. It may
import `process`, `policy` and `config`.
"""

"""Keeps counts that several workers share in memory, and lets one of them at a time decide on a connection.

`turns` has the algorithm on top of a few primitive operations, and `layout` says where what is in the memory.
`segment` and `table` are a worker's side, `memory` is the supervisor's. May import `config`, `policy` and
`daemon.process`.
"""

"""Keeps counts that several workers share in memory, and lets one of them at a time decide on a connection.

`turns` has the algorithm on top of a few primitive operations, and `layout` defines the parts of the memory.
`segment` and `table` are a worker's side, `memory` is the supervisor's. It may import `config`, `policy` and
`daemon.process`.
"""

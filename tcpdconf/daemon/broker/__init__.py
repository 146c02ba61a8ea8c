"""Counts connections for services of a group with different users, which cannot share writable memory.

`decisions` has the counts, `process` the process, and `client` is the supervisor's side. A worker speaks with
the broker as with the cluster process, by `cluster.share` and `cluster.records`. This package may import
`config`, `policy`, `daemon.process`, `daemon.messages` and `daemon.cluster`.
"""

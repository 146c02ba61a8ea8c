"""Counts for services of a group that have different users, and so share no memory that both could write.

`decisions` has the counts, `process` the process, and `client` is the supervisor's side. A worker speaks with
it as with the cluster process, by `cluster.share` and `cluster.records`. May import `config`, `policy`,
`daemon.process`, `daemon.messages` and `daemon.cluster`.
"""

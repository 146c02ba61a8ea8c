"""Contains a worker's DNS client and the lookups built on it: host names and DNS lists.

It may import `process`, `messages`, `policy` and `config`, but not the worker that it serves.
"""

"""The DNS client of a worker, and what a worker asks it: host names and DNS lists.

It sees `process`, `messages`, `policy` and `config`; not the worker that it serves.
"""

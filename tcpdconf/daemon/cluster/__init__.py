"""Contains the process that counts connections over several hosts in Valkey or Redis, and its clients.

`process` is the process, the only one that holds the engine's password and parses what the engine sends.
`client` is its client in the supervisor, `share` the one in a worker. It may import `process`, `messages`,
`policy` and `config`. Only `engine` imports hiredis.
"""

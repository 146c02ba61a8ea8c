"""Contains the process that counts connections over several hosts in Valkey or Redis, and its clients.

Only this process (`process`) holds the engine's password and parses the engine's answers. `client` is its
client in the supervisor, and `share` its client in a worker. This package may import `process`, `messages`,
`policy` and `config`. Only `engine` imports hiredis.
"""

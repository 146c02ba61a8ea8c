"""What to do with one connection. Pure: no socket, loop, clock, DNS, log or file; imports only `config`."""

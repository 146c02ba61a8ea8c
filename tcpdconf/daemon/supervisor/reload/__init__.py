"""Takes a running daemon from one configuration to the next: applies the whole new one or none of it.

`queue` runs one reload at a time, and `transaction` carries it out. `steps` defines its course in a pure
table, and `preview` tells what a reload would change.
"""

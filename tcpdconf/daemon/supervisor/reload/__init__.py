"""Takes a running daemon from one configuration to the next: applies the whole new one or none of it.

`queue` runs one reload at a time, and `transaction` carries it out. `steps` is the transition table of a
reload, and `preview` reports the changes that a reload would make.
"""

"""Takes a running daemon from one configuration to the next: all of it counts, or nothing has happened.

`queue` runs one reload at a time, `transaction` carries it out, `steps` is its course as a pure table, and
`preview` says what a reload would change.
"""

"""The command `tcpdconf`: its parser, its subcommands, what they print. It may import every other package."""

"""The subcommands of `lowerbound` that belong to no other package."""

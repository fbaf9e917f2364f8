"""What commands share: command lines, the list of commands, restarts."""

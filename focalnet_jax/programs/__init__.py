"""Code shared by the commands: command lines, the list of commands, restarts."""

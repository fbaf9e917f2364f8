"""Code shared by the commands: flags, config files, the list of commands, restarts."""

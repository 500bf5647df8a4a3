"""The command line: one file a command, each importing its work only when it runs."""

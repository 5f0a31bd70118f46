"""Names, configs and the parser of the command line."""

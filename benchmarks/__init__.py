"""Every speed claim of this project, each by one command."""

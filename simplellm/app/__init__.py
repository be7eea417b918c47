"""User interface: command line, chat and terminal output. Only this package prints."""

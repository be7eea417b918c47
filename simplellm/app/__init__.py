"""What a person touches: the command line, the chat, the screen. Only this package prints."""

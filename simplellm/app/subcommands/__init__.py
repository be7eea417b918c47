"""Commands of the command line (`train`, `chat`, ...), one module each."""

"""Export: a model as a file or a folder of another program, one module for each format."""

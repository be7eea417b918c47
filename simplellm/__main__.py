"""`python -m simplellm` runs the command line, like `simplellm`."""

from simplellm.app.cli import main

if __name__ == "__main__":
    raise SystemExit(main())

"""`python -m simplellm` is `simplellm`."""

from simplellm.app.cli import main

if __name__ == "__main__":
    raise SystemExit(main())

"""Find the best checkpoint, or train one on the-verdict.txt, then talk to it."""

from simplellm.app.cli import main

if __name__ == "__main__":
    raise SystemExit(main())

"""Entry point: chat with the best checkpoint, after training one if there is none."""

from simplellm.app.cli import main

if __name__ == "__main__":
    raise SystemExit(main())

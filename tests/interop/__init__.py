"""Third-party programs read what this program writes. `python -m pytest -m interop` runs these.

They need `pip install -e ".[test,interop]"`; a test whose package is missing is skipped.
"""

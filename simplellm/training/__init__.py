"""The trainer, and everything that decides how a run is trained."""

"""The base model that ships with the package: where it is. Its files are in the folder model/."""

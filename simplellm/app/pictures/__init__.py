"""Pictures of what commands show, fit for a slide."""

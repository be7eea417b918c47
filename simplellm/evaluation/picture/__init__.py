"""Pictures as self-contained SVG, HTML or PNG files, without a plotting library."""

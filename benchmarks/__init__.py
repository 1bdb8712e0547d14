"""Side-by-side measurements: their scripts, their results, the records behind the README."""

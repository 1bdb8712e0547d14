"""Drawing and asking: figures with alt text, tables, progress, widgets, exercises."""

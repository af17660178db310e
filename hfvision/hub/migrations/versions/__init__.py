"""One revision a file, each the step from the one it names."""

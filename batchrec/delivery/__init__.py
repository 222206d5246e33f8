"""What becomes of a run once it is published."""

"""Output: part files, the journal, the manifest, and publishing a run in one step."""

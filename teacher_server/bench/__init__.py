"""What `counterhint bench scoring` measures: a group's job scored our way and the others'."""

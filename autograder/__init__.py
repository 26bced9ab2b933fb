"""What an instructor's machine runs: build, gates, grading, the book and the `course` command line."""

"""Reference solutions, generated from source_solutions/ by `course build`. Do not edit."""

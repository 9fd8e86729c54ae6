"""One session at the prompt, and the one path that every line takes."""

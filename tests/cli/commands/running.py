"""Flags that the tests of the commands share."""

QUICK = ["--min-seconds", "0.5", "--jobs", "1"]

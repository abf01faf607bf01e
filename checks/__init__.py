"""Checks that take too long, or need too much, for the tests. Each is run from the repository as `python checks/NAME.py`.

| script | checks |
|---|---|
| equivalence.py | our engines against the package mmasim, code for code (oracle.py wraps it) |
| recordings.py | the catalogue against recordings of real GPUs by others |
| kill.py | what commands leave behind when they are killed |
| mutation.py | whether the tests notice changes of the code that judges (mutation.yaml explains survivors) |
"""

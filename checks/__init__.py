"""Checks that take too long, or need too much, for the tests. Each is run from the repository as `python checks/NAME.py`.

| script | checks |
|---|---|
| equivalence.py | our engines against the package mmasim, code for code (oracle.py wraps it) |
| recordings.py | the catalogue against recordings of real GPUs by others |
| published_cost.py | known circuits (circuits.py) against published figures; writes tables of docs/cost.md |
| record_mma.py, record_scaled_mm.py | record what a Hopper GPU computes, for conform and tests |
| blame.py | whether the scoreboard blames mutants planted in RTL on the right stage (blame.json) |
| kill.py | what commands leave behind when they are killed |
| unit_rtl.py | the exported Verilog of every shipped unit against the model, lint, planted faults (unit_rtl.json) |
| bounds.py | emulated outputs against their error bounds, on the CPU or a GPU (bounds.json) |
| proofs.py | that proofs refute faults planted in the hardware generator, with operands (proofs.json) |
| mutation.py | whether the tests notice changes of the code that judges (mutation.yaml explains survivors) |
"""

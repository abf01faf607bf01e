"""Generators of committed pages. Each is run from the repository as `python pages/NAME.py` and needs no GPU.

| script | writes | from |
|---|---|---|
| kernel_tables.py | tables of docs/gemm.md and docs/quantise.md | kernels/records: bench and steps |
| tensor_tables.py | tables of docs/tensors.md | the shipped tensors and the sources |
| cost_curves.py | cost curves and family of reports, and steps in docs/cost.md | designs measured anew (extra `cost`) |
| cost_model.py | codesign/evidence/cost/records/model, and its table in docs/cost.md | designs measured anew (extra `cost`) |
| timing_tables.py | docs/timing.md; timing_fit.py the fits in codesign/evidence/timing/records | kernels/records |
| communication.py | docs/communication.md | kernels/records: exchange and scaling |
| reference.py | tables of language, proposals, metrics, commands, conformance, cost, bounds and probe.md | the code |
| bounds.py | bounds.json, from which reference.py writes the table of bounds.md | inputs searched on the exact model |
| console.py | outputs of commands in README.md and docs/tutorial.md | the commands, and codesign-reports/ |
| site.py | the site, from docs/ | zensical.toml |
| unseen.py | prediction of a GPU's bench, and its errors in docs/timing.md | predictions/, kernels/records |
| reproduction.py | docs/reproduction.md | the models, on every run |
| reports.py | reports/ | the shipped proposals |

Benches that make records are in benchmarks/; comparisons and stress tests are in checks/.
"""

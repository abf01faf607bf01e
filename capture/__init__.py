"""What captures the tensors in codesign/workloads/captured. Each is run in the repository's folder as `python -m capture.NAME`.

| module | captures |
|---|---|
| pretrained | Linears of two pre-trained models that are packages of PyPI (extra `capture`) |
| training_run | routed experts of a training run of codesign's own model (extra `kernels`) |

tiles.py cuts the tiles for both.
"""

"""The public surface of kernels: entry points, their names, and the version."""

import subprocess
import sys

import pytest

import isa_model
import kernels


def test_the_version_is_the_package_s():
    """`kernels.__version__` is that of isa_model, from which pyproject.toml takes the package's."""
    assert kernels.__version__ == isa_model.__version__


def test_every_public_name_exists():
    """Every name in `__all__` of kernels and of its packages can be used, and functions and classes are documented."""
    pytest.importorskip("torch")
    for package in (kernels, kernels.gemm, kernels.quantise):
        for name in package.__all__:
            assert name == "__version__" or getattr(package, name).__doc__
    with pytest.raises(AttributeError, match="no attribute `other`"):
        _ = kernels.other


def test_entry_points_are_imported_on_first_use():
    """Importing kernels imports neither its entry points nor torch."""
    code = (
        "import sys, kernels; print({'torch', 'kernels.gemm', 'kernels.native', 'kernels.quantise'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"

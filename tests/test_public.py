"""What `import isa_model` offers: the names of `__all__`, documented, and nothing else."""

import inspect
import subprocess
import sys

import pytest

import isa_model


@pytest.mark.parametrize("name", isa_model.__all__)
def test_public_names_are_documented_and_typed(name):
    """Every public function and class has a docstring, and every parameter and result of a function a type."""
    value = getattr(isa_model, name)
    if name == "FORMATS":
        return
    assert value.__doc__
    if inspect.isfunction(value):
        signature = inspect.signature(value)
        types = [parameter.annotation for parameter in signature.parameters.values()] + [signature.return_annotation]
        assert inspect.Signature.empty not in types


def test_dir_lists_the_public_names_and_the_version():
    """`dir(isa_model)` shows what may be used, also before any of it was imported."""
    assert dir(isa_model) == sorted([*isa_model.__all__, "__version__"])


def test_a_file_does_not_hide_the_function_of_its_name():
    """`isa_model.matmul` is the function, whether its file was imported before or after."""
    code = (
        "import isa_model.matmul, isa_model; isa_model.matmul, isa_model.gemm, isa_model.swiglu; import isa_model.gemm"
    )
    check = "; print([callable(getattr(isa_model, name)) for name in ('matmul', 'gemm', 'swiglu')])"
    result = subprocess.run([sys.executable, "-c", code + check], capture_output=True, text=True, timeout=60)
    assert result.stdout == "[True, True, True]\n", result.stderr


def test_an_unknown_name_is_an_attribute_error():
    """A name that the package does not offer is reported with the package's name."""
    with pytest.raises(AttributeError, match="`isa_model` has no attribute `Matmul`"):
        _ = isa_model.Matmul

"""What pyproject.toml cannot say: the shipped proposals, which lie beside the packages, become a part of one."""

from setuptools import find_namespace_packages, setup

PACKAGES = find_namespace_packages(include=["codesign*", "isa_model*", "kernels*"])

setup(packages=[*PACKAGES, "codesign.proposals"], package_dir={"codesign.proposals": "proposals"})

"""The packages of the wheel: `attacks/` and `reports/` stand beside `vlaudit/` and are imported from within it."""

from setuptools import find_packages, setup

setup(
    packages=[
        *find_packages(include=["vlaudit*"]),
        *(f"vlaudit.{name}" for name in find_packages(include=["attacks*", "reports*"])),
    ]
)

"""What pyproject.toml cannot say: every folder of cwr_mech/ that holds modules is a package."""

from pathlib import Path

from setuptools import setup

found = {".".join(path.parent.parts) for path in Path("cwr_mech").rglob("*.py")}
setup(packages=[*sorted(found), "cwr_mech.zoo", "cwr_mech_cli"])

"""Puts the recipes into wheels, where configs/ is a folder of the package; all else is in pyproject.toml."""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class WithRecipes(build_py):
    """`build_py`, and configs/*.py beside the modules."""

    def run(self):
        """Copies; an editable installation reads configs/ where it lies."""
        super().run()
        if not self.editable_mode:
            target = Path(self.build_lib, "focalnet_jax", "configs")
            self.mkpath(str(target))
            for recipe in Path("configs").glob("*.py"):
                self.copy_file(str(recipe), str(target / recipe.name))


setup(cmdclass={"build_py": WithRecipes})

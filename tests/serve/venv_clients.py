"""The virtual environment that has the clients' packages: KTMPI_VENV, or the folder that a test was given."""
import importlib
import os
import sys


def need(package, folder):
    """Goes on under the environment's Python, and gives the module; exits with 77 where it is not installed."""
    folder = os.environ.get("KTMPI_VENV", folder)
    python = os.path.join(folder, "bin", "python")
    if sys.prefix != os.path.abspath(folder) and os.path.exists(python):
        os.execv(python, [python] + sys.argv)
    try:
        return importlib.import_module(package)
    except ImportError:
        print(f"skipped: {package} is not installed in {folder}")
        sys.exit(77)
